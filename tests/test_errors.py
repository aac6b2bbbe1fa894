import pickle

import pytest

from counterview import errors


def test_an_error_is_one_line_with_all_that_is_known():
    error = errors.ImageError("is\nnot an image", path="a.txt", found="text", expected="JPEG", fix="Convert it.")
    assert str(error) == "a.txt: is not an image; found text; expected JPEG. Convert it."
    assert error.exit_code == 2


def test_exit_codes_tell_bad_input_from_failure():
    assert errors.WeightsError("no network").exit_code == 1
    assert errors.MissingExtraError("render", "rendering").exit_code == 1
    assert 'pip install "counterview[render]"' in str(errors.MissingExtraError("render", "rendering"))
    inputs = [
        errors.ImageError,
        errors.VideoError,
        errors.MaskError,
        errors.ConfigError,
        errors.AnnotationError,
        errors.PredictionError,
        errors.ProposalError,
        errors.PathError,
        errors.CheckpointError,
    ]
    assert {cls.exit_code for cls in inputs} == {2}
    assert all(issubclass(cls, errors.InputError) for cls in inputs)


@pytest.mark.parametrize(
    "error", [errors.MaskError("m", path="p", found=3, expected=4, fix="f"), errors.MissingExtraError("x", "y")]
)
def test_errors_cross_process_borders(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
