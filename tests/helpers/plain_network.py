"""A network without batch statistics, to compare numbers of processes."""

import torch


class PlainNetwork(torch.nn.Module):
    """Two layers on frames, mean and standard deviation, one linear layer."""

    def __init__(self, input_size, lin_neurons):
        super().__init__()
        self.frames = torch.nn.Sequential(
            torch.nn.Linear(input_size, 24),
            torch.nn.Tanh(),
            torch.nn.Linear(24, 24),
            torch.nn.Tanh(),
        )
        self.lin = torch.nn.Linear(48, lin_neurons)

    def forward(self, x, lengths=None):
        """Maps features [batch, time, channel] to [batch, 1, embedding]."""
        x = self.frames(x / 4)
        x = torch.cat([x.mean(dim=1), x.std(dim=1)], dim=-1)
        return self.lin(x).unsqueeze(1)
