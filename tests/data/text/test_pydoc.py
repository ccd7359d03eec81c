"""The embedded text: enough of it in each split, and nothing of a held-out topic in training."""

from perceiver.data.text.pydoc import PydocTextDataModule, split_topics


def test_splits():
    splits = split_topics()
    sizes = {split: sum(len(text) for text in texts) for split, texts in splits.items()}
    assert sizes["train"] > 200_000
    assert min(sizes["valid"], sizes["test"]) > 10_000
    text = "".join(text for texts in splits.values() for text in texts)
    assert 'The "while" statement is used for repeated execution' in text
    assert split_topics() == splits


def test_no_paragraph_is_in_two_places():
    paragraphs = [p.strip() for texts in split_topics().values() for text in texts for p in text.split("\n\n")]
    paragraphs = [p for p in paragraphs if p]
    assert len(set(paragraphs)) == len(paragraphs)


def test_module(tmp_path, byte_tokenizer_dir):
    data = PydocTextDataModule(str(tmp_path), tokenizer=byte_tokenizer_dir, max_seq_len=512, num_workers=0)
    data.prepare_data()
    data.setup()
    assert data.tokenizer.decode(data.chunks["valid"].tokens.tolist()) == "".join(split_topics()["valid"])
    labels, input_ids, pad_mask = next(iter(data.train_dataloader()))
    assert labels.shape == input_ids.shape == pad_mask.shape == (64, 512)
    assert len(next(iter(data.test_dataloader()))) == 3
