"""The synthetic voices: different speakers, one pitch, sessions apart."""

import numpy as np
from test_toy_corpus import long_term_spectrum

from speechbrain_ext.synthetic.toy_voices import draw_session, draw_voice, speak


def dry_spectra(voices, takes=2):
    """Spectra of each voice, every take in a mood of its own."""
    spectra = np.zeros((len(voices), takes, 40))
    for speaker, voice in enumerate(voices):
        for take in range(takes):
            rng = np.random.default_rng([speaker, take])
            session = draw_session(rng, 16000)
            signal = speak(rng, voice, session, 400, 16000)
            spectra[speaker, take] = long_term_spectrum(signal)
    return spectra


def own_is_nearer(spectra):
    """Share of pairs in which a voice is nearer to itself than to another."""
    first, second = spectra[:, 0], spectra[:, 1]
    distance = np.linalg.norm(first[:, None] - second[None], axis=2)
    others = ~np.eye(len(first), dtype=bool)
    return np.mean((np.diag(distance)[:, None] < distance)[others])


def test_voices_tell_speakers_apart():
    rngs = [np.random.default_rng(speaker) for speaker in range(12)]
    voices = [draw_voice(rng) for rng in rngs]
    assert own_is_nearer(dry_spectra(voices)) > 0.8
    # The same measure on one voice under twelve names is near chance, 0.5.
    assert own_is_nearer(dry_spectra(voices[:1] * 12)) < 0.7


def test_speech_has_the_pitch_of_its_voice():
    voice = draw_voice(np.random.default_rng(3))
    voice.update(octave=np.log2(125), pitch_range=0.0, jitter=0.0)
    rng = np.random.default_rng(4)
    session = {**draw_session(rng, 16000), "octave": 0.0}
    signal = speak(rng, voice, session, 400, 16000)
    power = np.abs(np.fft.rfft(signal, 2 * len(signal))) ** 2
    correlation = np.fft.irfft(power)[: len(signal)]
    lag = 40 + np.argmax(correlation[40:230])
    # Declination and chance move the mean pitch of an utterance a little.
    assert abs(np.log2(16000 / lag / 125)) < 0.2
