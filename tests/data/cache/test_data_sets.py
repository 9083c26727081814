"""Data sets of a configuration: a task has its own arguments, other names are looked up elsewhere, shares are all or none."""

import pytest

from t5x_like.data.cache import data_sets
from t5x_like.data.cache.data_sets import DataSets
from t5x_like.data.cache.token_cache import TokenCache

COMMON = {"text": "text", "strict": False}


def test_own_arguments_take_precedence_and_a_share_is_none():
    two = DataSets(
        "own.module", {"web": {"train": "a", "share": 3}, "books": {"train": "b", "text": "body", "share": 1}}, COMMON
    )
    assert two.arguments("web") == {"train": "a", "text": "text", "strict": False}
    assert two.arguments("books") == {"train": "b", "text": "body", "strict": False}
    assert data_sets.tasks(two) == {"web": 3, "books": 1}


def test_one_data_set_is_a_name_and_several_without_shares_are_names():
    assert data_sets.tasks(DataSets("own.module", {"files": {"share": 2}})) == "files"
    assert data_sets.tasks(DataSets("own.module", {"web": {}, "books": {}})) == ("web", "books")
    with pytest.raises(ValueError, match="the data sets books have no share, web have one"):
        data_sets.tasks(DataSets("own.module", {"web": {"share": 1}, "books": {}}))


@pytest.mark.parametrize("share", [0, -1, "x", float("nan"), None])
def test_a_share_is_a_positive_number(share):
    with pytest.raises(ValueError, match="sets: the share=.* of data set 'web' is not a positive, finite number"):
        DataSets("own.module", {"web": {"share": share}})


@pytest.mark.parametrize("sets", [{}, {"web": "/data/*.txt"}, {3: {"train": "a"}}])
def test_a_data_set_needs_arguments(sets):
    with pytest.raises(ValueError, match="map the name of each data set to its arguments"):
        DataSets("own.module", sets)


def test_only_the_names_of_data_sets_have_their_arguments():
    own = DataSets("own.module", {"web": {"train": "a"}}, COMMON)
    web, other = (
        TokenCache(name, "train", "other.module", arguments={"x": 1}, data_sets=own) for name in ("web", "anything")
    )
    assert web.definition == ("own.module", {"train": "a"} | COMMON)
    assert other.definition == ("other.module", {"x": 1})
