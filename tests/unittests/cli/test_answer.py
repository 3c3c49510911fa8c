"""What a subcommand returns."""

from speechbrain_ext.cli.answer import NO, YES, Answer


def test_done_is_the_default():
    assert Answer("text", {}).code == YES == 0
    assert NO == 1
