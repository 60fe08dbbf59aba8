"""Recipes: those in the repository parse, and mistakes are named."""

from pathlib import Path

import pytest

from training.config import TrainingConfig
from training.recipe import Recipe, RecipeError, override, read_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_parses(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.sources.train
    assert recipe.sources.licence
    assert recipe.sources.description
    assert TrainingConfig(**recipe.training).steps
    assert not any(Path(name).is_absolute() for name in recipe.sources.train)


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[training]\nstep = 3", r"\[training\] step: unknown key; known are .*steps"),
        ("[corpus]\nlevels = 'char'", r"\[corpus\] levels: unknown key; known are .*level.*train"),
        ("[network]\nvocabulary_size = 3", r"\[network\] vocabulary_size: unknown key"),
        ("[trainig]\nsteps = 3", r"\[trainig\]: unknown table"),
        ("training = 3", "has to be a table"),
        ("[training]\nsteps = 'many'", r"\[training\] steps: 'many'"),
        ("[network]\ncell = 'tree'", r"\[network\] cell: 'tree'"),
        ("[corpus]\nvalid_fraction = 2.0", "valid_fraction"),
        ("[corpus", "not a recipe"),
    ],
)
def test_mistake_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(content)
    with pytest.raises(RecipeError, match=message) as error:
        read_recipe(path)
    assert "mine.toml" in str(error.value)


def test_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.toml"):
        read_recipe(tmp_path / "none.toml")


def test_later_values_win_and_others_stay() -> None:
    recipe = override(Recipe(), {"corpus": {"train": ["a"], "level": "char"}, "training": {"steps": 3, "dropout": 0.1}})
    recipe = override(recipe, {"training": {"steps": 5}, "network": {"hidden_sizes": [4, 4]}})
    assert recipe.training == {"steps": 5, "dropout": 0.1}
    assert recipe.network == {"hidden_sizes": (4, 4)}
    assert (recipe.sources.train, recipe.corpus.level) == ((Path("a"),), "char")
