"""What holds for all data modules: their bases, the arguments of their loaders, and what there is without a cache."""

import importlib
import inspect
from types import SimpleNamespace
from typing import Any

import jsonargparse
import numpy as np
import pytest
import pytorch_lightning as pl

from perceiver.data.examples import Examples
from perceiver.data.module import DataModule, former_argument
from tests.garbage import keeps_its_caller

PACKAGES = [importlib.import_module(f"perceiver.data.{domain}") for domain in ("text", "vision", "audio", "multimodal")]
MODULES: dict[str, type[DataModule]] = {
    name: getattr(package, name) for package in PACKAGES for name in package.__all__ if name.endswith("DataModule")
}
BATCH_SIZES = {"SymbolicAudioDataModule": 16, "SyntheticClipDataModule": 16, "OpticalFlowDataModule": 8}


@pytest.mark.parametrize("name", MODULES)
def test_bases(name: str) -> None:
    """A leaf has one base of its domain, and that one `DataModule`."""
    first, *others = MODULES[name].__mro__
    ours = [base for base in others if base.__module__.startswith("perceiver.")]
    assert len(ours) <= 2 and ours[-1] is DataModule and DataModule.__bases__ == (pl.LightningDataModule,)
    assert all(len(base.__bases__) == 1 for base in (first, *ours))


@pytest.mark.parametrize("name", MODULES)
def test_arguments_of_the_loaders_are_flags(name: str) -> None:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(MODULES[name], "data")
    flags = {action.dest.removeprefix("data."): action for action in parser._actions}
    expected = {
        parameter.name: parameter.default
        for parameter in inspect.signature(DataModule).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    expected["batch_size"] = next(
        (BATCH_SIZES[b.__name__] for b in MODULES[name].__mro__ if b.__name__ in BATCH_SIZES), 64
    )
    if name == "C4DataModule":  # has others in their place
        assert {"num_workers", "seed"} & flags.keys() == set()
        del expected["num_workers"], expected["seed"]
    assert list(expected) and {flag: flags[flag].default for flag in expected} == expected
    assert all(flags[flag].help for flag in flags if not flag.startswith("-"))


class Numbers(Examples[int]):
    def __len__(self) -> int:
        return 20

    def example(self, epoch: int, index: int) -> int:
        return 100 * epoch + index

    def repeated(self, example: int) -> int:
        return -1


class NumbersDataModule(DataModule):
    def load_examples(self) -> dict[str, Any]:
        return {"train": Numbers(), "valid": Numbers()}


def test_what_a_caller_had_goes_when_it_returns() -> None:
    """Loaders with workers, for example, which take 10 s to end as garbage."""
    assert not keeps_its_caller(NumbersDataModule)


def test_order() -> None:
    """Of training by seed and epoch, of validation as it is; repeated while overfitting; shared by processes."""

    def order(split: str, epoch: int = 0, trainer: Any = None, **kwargs: Any) -> list[int]:
        data = NumbersDataModule(batch_size=3, num_workers=0, **kwargs)
        data.setup()
        data.trainer = trainer
        loader: Any = getattr(data, f"{split}_dataloader")()
        if split == "train" and not (trainer and trainer.overfit_batches):
            loader.sampler.set_epoch(epoch)
        return [int(number) for batch in loader for number in batch]

    assert order("val") == order("val", seed=1) == list(range(20))
    first = order("train")
    assert sorted(first) == list(range(20)) and first == order("train", valid_batch_size=7)
    assert order("train", seed=1) != first != [number - 100 for number in order("train", epoch=1)]
    assert sorted(order("train", epoch=1)) == list(range(100, 120))
    overfit = SimpleNamespace(overfit_batches=2, world_size=1, global_rank=0)
    assert order("train", trainer=overfit) == list(range(20))
    parts = [order("train", trainer=SimpleNamespace(overfit_batches=0, world_size=3, global_rank=r)) for r in range(3)]
    assert [len(part) for part in parts] == [7, 7, 7] and sorted(sum(parts, [])) == [-1, *range(20)]


class Nothing(DataModule):
    pass


def test_what_there_is_not() -> None:
    data: Any = Nothing(batch_size=3)
    assert (data.batch_size, data.valid_batch_size, data.num_workers, data.pin_memory, data.seed) == (3, 3, 2, True, 0)
    data.prepare_data()
    data.setup()
    assert not any(hasattr(data, name) for name in ("cache_dir", "label_names", "num_classes"))
    with pytest.raises(AttributeError, match="Nothing has no classes"):
        _ = data.num_classes
    with pytest.raises(AttributeError, match="Nothing preprocesses nothing"):
        _ = data.cache_dir
    with pytest.raises(ValueError, match=r"Nothing has no split 'train', only \[\]"):
        data.train_dataloader()


def test_arguments_of_the_loaders() -> None:
    arguments: dict[str, Any]
    for arguments, said in (
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"seed": None}, "seed=None must be an integer"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"batch_size": 2.5}, "batch_size=2.5 must be an integer"),
        ({"valid_batch_size": 0}, "valid_batch_size=0 must be at least 1"),
        ({"num_workers": -1}, "num_workers=-1 must be at least 0"),
    ):
        with pytest.raises(ValueError, match=said):
            Nothing(**arguments)
    assert Nothing(batch_size=np.int64(3)).batch_size == 3


@former_argument("folder", "source")
class Files(DataModule):
    def __init__(self, source: str = "here", **kwargs: Any):
        super().__init__(**kwargs)
        self.source = source


class Pages(Files):
    def __init__(self, num_pages: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_pages = num_pages


def test_an_argument_may_have_its_former_name() -> None:
    assert Files().source == "here" and Files("there").hparams.source == "there"
    with pytest.warns(FutureWarning, match="folder of Files is called source now"):
        pages = Pages(num_pages=3, folder="there", seed=5)  # type: ignore[call-arg]
    assert (pages.source, pages.num_pages, pages.seed) == ("there", 3, 5)
    assert (pages.hparams.source, pages.hparams.num_pages, pages.hparams.seed) == ("there", 3, 5)
    assert "folder" not in pages.hparams
    with pytest.raises(TypeError, match="Files got source and its former name folder"):
        Files(source="a", folder="b")  # type: ignore[call-arg]


def test_data_that_is_somewhere_has_it_as_source() -> None:
    """All data modules call it the same."""
    elsewhere = {"repo_id", "dataset_id", "data_dir", "path", "folder", "url"}
    for domain in ("audio", "multimodal", "text", "vision"):
        package = importlib.import_module(f"perceiver.data.{domain}")
        for name in package.__all__:
            if name.endswith("DataModule"):
                assert not elsewhere & inspect.signature(getattr(package, name).__init__).parameters.keys(), name
