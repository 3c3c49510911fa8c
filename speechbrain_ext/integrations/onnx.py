"""Export of speaker encoders to ONNX and to torch.export's own format.

Two forms exist, both with a free batch size and length:

- waveforms ``wavs`` [batch, samples] to ``embs`` [batch, embedding]: the front
  end is inside the graph;
- features ``feats`` [batch, frames, filters] to ``embs``, as WeSpeaker's
  runtime, pyannote.audio and sherpa-onnx call a network. The runtime computes
  the features. The normalisation over the utterance is inside the graph, so it
  does not matter whether the runtime subtracts the mean too.

All utterances of a batch have the same length. Signals without speech raise
no error in a graph. Needs the packages of the extra ``onnx``.
"""

import copy
import importlib
import pathlib
import warnings

import torch
from speechbrain.processing.features import InputNormalization
from speechbrain.utils.logger import get_logger

from speechbrain_ext.inference.speech import SpeechFeatures
from speechbrain_ext.lobes.features import (
    KaldiFbank,
    SentenceMeanNorm,
    SentenceMeanVarNorm,
)
from speechbrain_ext.utils.files import atomic_path, require_own
from speechbrain_ext.utils.temporaries import TEMPORARY

logger = get_logger(__name__)

FORMS = {"waveform": "wavs", "features": "feats"}
LOWEST_OPSET = 18  # the exporter's own
TOLERANCE = 1e-4  # of the cosine to torch's embedding
INT8_TOLERANCE = 0.1
CHECKED_SECONDS = (1.0, 2.345)


class ExportedEncoder(torch.nn.Module):
    """What is exported: normalisation and network, and maybe the front end.

    Arguments
    ---------
    modules : dict of torch.nn.Module
        ``compute_features``, ``mean_var_norm`` and ``embedding_model``, for
        example the ``mods`` of SpeechBrain's ``EncoderClassifier``. They are
        copied to the CPU, in evaluation mode.
    form : str
        ``waveform`` or ``features``.

    Raises
    ------
    ValueError
        If the form is unknown, or a module is missing.

    Example
    -------
    >>> from speechbrain_ext.lobes.features import SentenceMeanNorm
    >>> from speechbrain_ext.lobes.models.ResNet import ResNet
    >>> modules = {
    ...     "compute_features": KaldiFbank(40),
    ...     "mean_var_norm": SentenceMeanNorm(),
    ...     "embedding_model": ResNet(40, (1, 1, 1, 1), 4, 8),
    ... }
    >>> ExportedEncoder(modules)(torch.randn(2, 16000)).shape
    torch.Size([2, 8])
    """

    def __init__(self, modules, form="waveform"):
        super().__init__()
        if form not in FORMS:
            raise ValueError(
                f"`form` must be one of {sorted(FORMS)}, got {form!r}."
            )
        names = ["compute_features", "mean_var_norm", "embedding_model"]
        missing = [name for name in names if name not in modules]
        if missing:
            raise ValueError(
                f"`modules` must have {', '.join(missing)}; pass the modules "
                "of a speaker encoder."
            )
        front_end, self.mean_var_norm, self.embedding_model = (
            copy.deepcopy(modules[name]).cpu() for name in names
        )
        if isinstance(front_end, SpeechFeatures):
            front_end = front_end.front_end  # a graph cannot raise
        self.compute_features = None
        if form == "waveform":
            self.compute_features = front_end
        self.eval()

    def forward(self, x):
        """Computes embeddings of utterances of one length.

        Arguments
        ---------
        x : torch.Tensor
            Waveforms of shape [batch, samples] with samples in [-1, 1], or
            features of shape [batch, frames, filters].

        Returns
        -------
        torch.Tensor
            Embeddings of shape [batch, embedding].
        """
        if self.compute_features is not None:
            x = self.compute_features(x)
        if isinstance(self.mean_var_norm, InputNormalization):
            x = self.mean_var_norm(x, x.new_ones(x.shape[0]))
        else:
            x = self.mean_var_norm(x)
        return self.embedding_model(x).squeeze(1)


def export_onnx(
    modules,
    path,
    form="waveform",
    sample_rate=16000,
    language="unknown",
    int8=False,
    opset=LOWEST_OPSET,
):
    """Writes an encoder as an ONNX file, checked against torch.

    onnxruntime and torch compute embeddings of two lengths in two batch sizes
    before the file is put in place. The file has sherpa-onnx's metadata. Its
    ``framework`` is ``wespeaker`` only if the file takes 80 filterbanks of
    Kaldi, so that sherpa-onnx refuses the others.

    Arguments
    ---------
    modules : dict of torch.nn.Module
        See ``ExportedEncoder``.
    path : str | pathlib.Path
        The file to write, ending in ``.onnx``.
    form : str
        ``waveform`` or ``features``.
    sample_rate : int
        Sample rate of the encoder, Hz.
    language : str
        Languages of the training data, for the metadata.
    int8 : bool
        Whether to quantize the network's weights to 8 bits. Activations are
        quantized when the graph runs. A warning says that its EER is to be
        measured.
    opset : int
        Version of ONNX's operators, at least 18.

    Returns
    -------
    float
        The lowest cosine of the file's embeddings to torch's.

    Raises
    ------
    ValueError
        If an argument is not valid, onnxruntime cannot run the file, or the
        embeddings differ.
    ImportError
        If a package of the extra ``onnx`` is not installed.
    FileNotFoundError
        If the folder of the file does not exist.
    FileExistsError
        If the file exists and this project did not write it.

    Example
    -------
    >>> export_onnx({}, "encoder.pt")
    Traceback (most recent call last):
    ValueError: `path` must end in .onnx, got encoder.pt.
    """
    encoder = _require_valid(modules, path, form, ".onnx")
    onnx = _require("onnx")
    _require("onnxscript")
    newest = onnx.defs.onnx_opset_version()
    if not LOWEST_OPSET <= opset <= newest:
        raise ValueError(
            f"`opset` of {path} must be from {LOWEST_OPSET} to {newest} (the "
            f"newest that onnx {onnx.__version__} knows), got {opset}."
        )
    example = _example_maker(modules, form, sample_rate)
    axes = {0: "batch", 1: "samples" if form == "waveform" else "frames"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        program = torch.onnx.export(
            encoder,
            (example(2, 1.5),),
            input_names=[FORMS[form]],
            output_names=["embs"],
            opset_version=opset,
            dynamo=True,
            dynamic_shapes=(axes,),
            external_data=False,
            verbose=False,
        )
    size = encoder(example(1, 1.0)).shape[1]
    kaldi = form == "features" and _is_kaldi(modules, sample_rate)
    program.model.metadata_props.update(
        framework="wespeaker" if kaldi else "speechbrain_ext",
        language=language,
        sample_rate=str(sample_rate),
        output_dim=str(size),
        normalize_samples="0",  # 16-bit numbers go to the filterbanks
        feature_normalize_type="global-mean" if kaldi else "",
    )
    proto = program.model_proto
    made = next(o.version for o in proto.opset_import if not o.domain)
    if made != opset:
        raise ValueError(
            f"The network cannot be exported with `opset` {opset}, only with "
            f"{made}; pass {made}."
        )
    with atomic_path(path) as temporary:
        if int8:
            _quantize(proto, temporary)
        else:
            onnx.save(proto, temporary)
        session = onnx_session(temporary)
        tolerance = INT8_TOLERANCE if int8 else TOLERANCE
        lowest = _lowest_cosine(
            encoder,
            lambda x: torch.from_numpy(
                session.run(["embs"], {FORMS[form]: x.numpy()})[0]
            ),
            example,
            tolerance,
            path,
        )
    if int8:
        logger.warning(
            f"{path} has weights of 8 bits; the lowest cosine of its "
            f"embeddings to torch's is {lowest:.4f}. Measure its EER, and use "
            "it only if the EER grows by at most 5 % of its value."
        )
    return lowest


def export_program(modules, path, form="waveform", sample_rate=16000):
    """Writes an encoder by torch.export, checked against the network itself.

    ``torch.export.load(path).module()`` loads the file. It needs neither this
    package nor SpeechBrain.

    Arguments
    ---------
    modules : dict of torch.nn.Module
        See ``ExportedEncoder``.
    path : str | pathlib.Path
        The file to write, ending in ``.pt2``.
    form : str
        ``waveform`` or ``features``.
    sample_rate : int
        Sample rate of the encoder, Hz.

    Returns
    -------
    float
        The lowest cosine of the file's embeddings to the network's.

    Raises
    ------
    ValueError
        If an argument is not valid, torch.export cannot keep the length free,
        or the embeddings differ.
    FileNotFoundError
        If the folder of the file does not exist.
    FileExistsError
        If the file exists and this project did not write it.

    Example
    -------
    >>> export_program({}, "encoder.onnx")
    Traceback (most recent call last):
    ValueError: `path` must end in .pt2, got encoder.onnx.
    """
    encoder = _require_valid(modules, path, form, ".pt2")
    free = torch.export.Dim.DYNAMIC
    example = _example_maker(modules, form, sample_rate)
    program = torch.export.export(
        encoder, (example(2, 1.5),), dynamic_shapes=({0: free, 1: free},)
    )
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about its own buffers
        torch.export.save(program, temporary)
        exported = torch.export.load(temporary).module()
        try:
            return _lowest_cosine(encoder, exported, example, TOLERANCE, path)
        except AssertionError as error:  # the file takes some lengths only
            raise ValueError(
                f"{path} is not written: torch.export cannot keep the length "
                f"free for {type(encoder.embedding_model).__name__} ({error}). "
                "Export to a name that ends in .onnx."
            ) from error


def onnx_session(path, threads=1):
    """Loads an ONNX file for the CPU.

    Arguments
    ---------
    path : str | pathlib.Path
        The file.
    threads : int
        Number of threads that compute an operator.

    Returns
    -------
    onnxruntime.InferenceSession
        The session.

    Raises
    ------
    ValueError
        If onnxruntime cannot load the file, for example because it does not
        know the opset.
    ImportError
        If onnxruntime is not installed.
    """
    onnxruntime = _require("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's classes have no common base
        name = TEMPORARY.sub("", pathlib.Path(path).name)
        raise ValueError(
            f"onnxruntime {onnxruntime.__version__} cannot load {name} "
            f"({' '.join(str(error).split())}); "
            "export with an older opset, or install a newer onnxruntime."
        ) from error


def _require_valid(modules, path, form, suffix):
    """The encoder, if the arguments are valid."""
    if pathlib.Path(path).suffix != suffix:
        raise ValueError(f"`path` must end in {suffix}, got {path}.")
    require_own(path)
    if not pathlib.Path(path).absolute().parent.is_dir():
        raise FileNotFoundError(
            f"The folder {pathlib.Path(path).parent} does not exist; create "
            "it, or name another file."
        )
    return ExportedEncoder(modules, form)


def _require(name):
    """A package of the extra."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"{name} is not installed; ONNX files need it: "
            "pip install 'speechbrain-ext[onnx]'."
        ) from error


def _is_kaldi(modules, sample_rate):
    """Whether the features are 80 filterbanks of Kaldi without their mean.

    The last frequency is Kaldi's default, or that of sherpa-onnx.
    """
    front_end = modules["compute_features"]
    front_end = getattr(front_end, "front_end", front_end)
    norms = SentenceMeanNorm, SentenceMeanVarNorm
    rate = {"sample_rate": sample_rate}
    filters = [KaldiFbank(high_freq=last, **rate).filters for last in (0, -400)]
    return (
        isinstance(front_end, KaldiFbank)
        and isinstance(modules["mean_var_norm"], norms)
        and any(torch.equal(front_end.filters.cpu(), one) for one in filters)
        and not front_end.use_energy
        and not front_end.noise_floor
    )


def _example_maker(modules, form, sample_rate):
    """A function of batch size and seconds that makes inputs from noise."""
    front_end = None
    if form == "features":
        front_end = copy.deepcopy(modules["compute_features"]).cpu().eval()

    def make(batch, seconds):
        generator = torch.Generator().manual_seed(batch)
        samples = int(seconds * sample_rate)
        noise = torch.randn(batch, samples, generator=generator)
        before = torch.nn.functional.pad(noise, (1, -1))
        # each utterance has a spectrum of its own
        tilt = torch.linspace(-0.9, 0.9, batch).unsqueeze(1)
        wavs = 0.1 * (noise + tilt * before)
        if front_end is None:
            return wavs
        with torch.no_grad():
            return front_end(wavs).detach()  # without the note of its framing

    return make


def _quantize(proto, path):
    """Writes a graph with 8-bit weights; the front end keeps 32 bits."""
    quantization = _require("onnxruntime.quantization")
    kept = [
        node.name
        for node in proto.graph.node
        if any("compute_features" in name for name in node.input)
    ]
    quantization.quantize_dynamic(
        proto,
        path,
        weight_type=quantization.QuantType.QUInt8,
        op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        nodes_to_exclude=kept,
    )


def _lowest_cosine(encoder, exported, example, tolerance, path):
    """Compares embeddings; raises if they differ by more than allowed."""
    lowest = 1.0
    for batch in (1, 3):
        for seconds in CHECKED_SECONDS:
            x = example(batch, seconds)
            with torch.no_grad():
                expected, found = encoder(x), exported(x)
            if found.shape != expected.shape or not found.isfinite().all():
                raise ValueError(
                    f"{path} is not written: for a batch of {batch} of "
                    f"{seconds} s it gives {list(found.shape)} numbers, some "
                    f"not finite, and torch gives {list(expected.shape)}."
                )
            cosine = torch.nn.functional.cosine_similarity(
                expected.double(), found.double()
            )
            lowest = min(lowest, cosine.min().item())
    if lowest < 1 - tolerance:
        raise ValueError(
            f"{path} is not written: the cosine of its embeddings to torch's "
            f"must be at least {1 - tolerance:g}, got {lowest:.6f}."
        )
    return lowest
