import pytest
from click.testing import CliRunner

from loadtests.rows import FileError
from loadtests.simulator.fit import Measured, fit, fitting, load, main

HEADER = "model,hardware,prompt_size,batch_size,token_size,prompt_time,token_time,tensor_parallel"
A, B, C = 0.03, 0.0004, 0.0001


def rows(a=A, b=B, c=C):
    """What a worker with these three numbers would have measured, in milliseconds."""
    sizes = [(prompt, 1) for prompt in (128, 512, 2048)] + [(512, batch) for batch in (2, 4, 8, 16)]
    for prompt, batch in sizes:
        prefill, token = a + c * prompt * batch, a + b * batch
        yield f"m,gpu,{prompt},{batch},128,{prefill * 1e3},{token * 1e3},8"


def write(tmp_path, *lines, header=HEADER):
    path = tmp_path / "table.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def test_the_three_numbers_of_an_iteration_are_found_again(tmp_path):
    ((name, measured),) = load(write(tmp_path, *rows())).items()
    fitted = fit(name, measured)
    assert name == "m-gpu-x8"
    assert fitted.decode_s == pytest.approx(A)
    assert fitted.decode_batch_s == pytest.approx(B)
    assert fitted.prefill_tokens_per_s == pytest.approx(1 / C)
    assert fitted.error == pytest.approx(0.0, abs=1e-9)


def test_a_batch_that_did_not_fit_into_memory_is_left_out():
    good = [Measured(batch, 512 * batch, 0.1 * batch, 0.03) for batch in (1, 2, 4)]
    error = Measured(8, 4096, 0.1, 0.03)
    assert fitting([*good, error]) == good


def test_it_prints_yaml(tmp_path):
    output = CliRunner().invoke(main, [str(write(tmp_path, *rows()))]).output
    assert output.startswith("m-gpu-x8: {decode_s: 0.0300, decode_batch_s: 0.000400, prefill_tokens_per_s: 10000}")


@pytest.mark.parametrize(
    ("lines", "header", "message"),
    [
        ((), HEADER, "table.csv: there is a header, but no row"),
        (("m,gpu,1,1,1,1,1",), HEADER.replace(",token_time", ""), "no column token_time"),
        (("m,gpu,512,1,1,-5,3,8",), HEADER, "table.csv:2: prompt_time: -5 is out of range"),
        (("m,gpu,512,one,1,5,3,8",), HEADER, "table.csv:2: batch_size: a number was expected, not 'one'"),
    ],
)
def test_bad_tables_are_refused_by_line_and_field(tmp_path, lines, header, message):
    with pytest.raises(FileError, match=message):
        load(write(tmp_path, *lines, header=header))


def test_one_size_alone_is_no_fit(tmp_path):
    one = next(iter(rows()))
    result = CliRunner().invoke(main, [str(write(tmp_path, one, one))])
    assert result.exit_code == 2
    assert "m-gpu-x8: several batch sizes and several prompt sizes were expected" in result.output
