"""A saved dataset names only files in its own folder."""

import pytest

from tests.tasks.sources.test_files import ROWS, save_dataset, sources  # noqa: F401


@pytest.mark.parametrize("place", ["..", "/"])
def test_files_elsewhere_are_refused(sources, tmp_path, place):  # noqa: F811
    save_dataset(tmp_path / "whole", ROWS)
    file = f"{tmp_path if place == '/' else place}/whole/data-00000-of-00002.arrow"
    save_dataset(tmp_path / "saved", ROWS, _data_files=[{"filename": file}])
    with pytest.raises(ValueError, match="state.json contains the file name '.*whole"):
        sources.ArrowSource(tmp_path / "saved")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["../x"]}')
    with pytest.raises(ValueError, match="dataset_dict.json contains the file name '../x'"):
        sources.ArrowSource(tmp_path)
