"""Parsing of HLO text."""

from pgs.compile import hlo


def test_sizes():
    assert hlo.size('(f32[2,3]{1,0}, /*index=1*/bf16[4]{0:T(128)}, token[])') == 24 + 8
    assert hlo.size('f32[2,3]{1,0:T(8,128)S(1)}') == 0
    assert hlo.size('f32[2,3]{1,0:T(8,128)S(1)}', main_memory=False) == 24
