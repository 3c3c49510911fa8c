"""Training loops in the manner of two other toolkits, with a given encoder.

Written from what their recipes do (speechbrain@9c826ef, `train_resnet.yaml`;
wespeaker, `examples/voxceleb/v2`), without augmentation. Both train in float32,
their default.
"""

import copy
import random

import numpy as np
import soundfile
import speechbrain as sb
import torch
import torchaudio
from speechbrain.dataio import audio_io
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ECAPA_TDNN import Classifier
from speechbrain.nnet.losses import AdditiveAngularMargin, LogSoftmaxWrapper
from speechbrain.nnet.schedulers import CyclicLRScheduler
from speechbrain.processing.features import InputNormalization

from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.nnet.losses import AAMSoftmax

RATE = 16000


class TheirBrain(sb.Brain):
    """Features, encoder, classifier and loss in the order of their recipe."""

    def compute_forward(self, batch, stage):
        """From waveforms to cosines."""
        wavs, lengths = batch.to(self.device).sig
        features = self.modules.compute_features(wavs)
        features = self.modules.mean_var_norm(features, lengths)
        return self.modules.classifier(self.modules.embedding_model(features))

    def compute_objectives(self, predictions, batch, stage):
        """The loss; then the learning rate of the next batch."""
        loss = self.hparams.compute_cost(predictions, batch.speaker.data)
        self.hparams.lr_annealing.on_batch_end(self.optimizer)
        return loss


def speechbrain_manner(
    manifest, encoder, embedding_size, seconds, batch_size, workers
):
    """A Brain and a loader in the manner of SpeechBrain's VoxCeleb recipe."""
    table = manifest[manifest["duration"] > seconds + 0.01]
    columns = ["wav", "duration", "spk_id"]
    data = DynamicItemDataset(
        table.set_index("ID")[columns].to_dict(orient="index")
    )
    labels = CategoricalEncoder()
    samples = int(RATE * seconds)

    def crop(wav, duration):
        start = random.randint(0, int(duration * RATE) - samples)
        signal, _ = audio_io.load(wav, num_frames=samples, frame_offset=start)
        return signal.squeeze(0)

    data.add_dynamic_item(crop, takes=("wav", "duration"), provides="sig")
    data.add_dynamic_item(
        lambda speaker: labels.encode_sequence_torch([speaker]),
        takes="spk_id",
        provides="speaker",
    )
    labels.update_from_didataset(data, "spk_id")
    data.set_output_keys(["id", "sig", "speaker"])
    modules = {
        "compute_features": Fbank(n_mels=encoder.input_size),
        "mean_var_norm": InputNormalization(
            norm_type="sentence", std_norm=False
        ),
        "embedding_model": copy.deepcopy(encoder),
        "classifier": Classifier(embedding_size, out_neurons=len(labels)),
    }
    hparams = {
        "compute_cost": LogSoftmaxWrapper(AdditiveAngularMargin(0.2, 30)),
        "lr_annealing": CyclicLRScheduler(1e-8, 1e-3, 65000),
    }
    brain = TheirBrain(
        modules,
        lambda parameters: torch.optim.Adam(
            parameters, lr=1e-3, weight_decay=2e-6
        ),
        hparams,
    )
    brain.on_fit_start()
    loader = brain.make_dataloader(
        data,
        sb.Stage.TRAIN,
        batch_size=batch_size,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
    )
    return brain, loader


class OneByOne(torch.utils.data.Dataset):
    """Whole files are read, cut, and their features computed one by one."""

    def __init__(self, manifest, seconds, n_mels):
        self.paths = manifest["wav"].tolist()
        self.samples, self.n_mels = round(seconds * RATE), n_mels
        self.speakers, names = manifest["spk_id"].factorize()
        self.classes = len(names)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, place):
        signal, _ = soundfile.read(self.paths[place], dtype="float32")
        signal = np.resize(signal, max(len(signal), self.samples))
        start = random.randint(0, len(signal) - self.samples)
        signal = signal[start : start + self.samples]
        features = torchaudio.compliance.kaldi.fbank(
            torch.from_numpy(signal)[None] * 2**15,
            num_mel_bins=self.n_mels,
            window_type="hamming",
            dither=1.0,
        )
        return features, self.speakers[place]


def wespeaker_manner(
    manifest, encoder, embedding_size, seconds, batch_size, workers
):
    """A plain loop and its loader in the manner of WeSpeaker's trainer."""
    data = OneByOne(manifest, seconds, encoder.input_size)
    encoder = copy.deepcopy(encoder)
    head = CosineClassifier(embedding_size, data.classes)
    loss_of = AAMSoftmax(margin=0.2, scale=32.0)
    optimizer = torch.optim.SGD(
        [*encoder.parameters(), *head.parameters()],
        lr=0.1,
        momentum=0.9,
        nesterov=True,
        weight_decay=1e-4,
    )

    def train(turn, epoch):
        encoder.train()
        losses, right = [], []
        for features, targets in turn:
            features = features - features.mean(dim=1, keepdim=True)
            cosines = head(encoder(features))
            loss = loss_of(cosines, targets[:, None])
            losses.append(loss.item())
            guessed = cosines.detach().cpu().numpy()[:, 0].argmax(axis=1)
            right.append((guessed == targets.cpu().numpy()).mean())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    loader = torch.utils.data.DataLoader(
        data,
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
    )
    return train, loader
