"""The subcommands ``push`` and ``pull``."""

from speechbrain_ext.cli.answer import Answer
from speechbrain_ext.integrations import hub


def push(arguments):
    """Uploads a pretrained folder to the Hugging Face Hub.

    Arguments
    ---------
    arguments : argparse.Namespace
        Of the subcommand.

    Returns
    -------
    Answer
        The address of the model.
    """
    url = hub.push(
        arguments.folder,
        arguments.repo_id,
        private=arguments.private,
        revision=arguments.revision,
        message=arguments.message,
    )
    return Answer(
        f"{arguments.folder} is at {url}",
        {"folder": arguments.folder, "url": str(url)},
    )


def pull(arguments):
    """Downloads a pretrained folder from the Hugging Face Hub.

    Arguments
    ---------
    arguments : argparse.Namespace
        Of the subcommand.

    Returns
    -------
    Answer
        The folder.
    """
    folder = hub.pull(
        arguments.repo_id,
        arguments.folder,
        revision=arguments.revision,
        offline=arguments.offline,
    )
    return Answer(
        f"{arguments.repo_id} is in {folder}",
        {"repo_id": arguments.repo_id, "folder": str(folder)},
    )
