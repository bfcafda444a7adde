"""The schedule of a kernel as the compiler writes it down."""

from programs import load_benchmark

SCHEDULE = """Schedule analysis:
	total scheduled bundles:    1413
	empty scheduled bundles:    9
	non empty scheduled bundles: 1404
"""


def test_the_lines_of_a_kernel_are_those_of_its_final_schedule(tmp_path):
    for name, text in (
        ('12-forward_attention.1-64-schedule-analysis_packed-bundles-post-ra.txt', 'other'),
        ('12-forward_attention.1-71-schedule-analysis_final_bundles.txt', SCHEDULE),
        ('13-copy.1-65-schedule-analysis_final_bundles.txt', SCHEDULE.replace('1413', '7')),
    ):
        (tmp_path / name).write_text(text)
    schedule_lines = load_benchmark('tpu_attention').schedule_lines
    assert schedule_lines(tmp_path, 'forward_attention.1') == 1413
