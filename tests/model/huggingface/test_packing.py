"""Packed documents in the Hugging Face models: told apart by their positions, as transformers' collator gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DataCollatorWithFlattening, Trainer, TrainingArguments

from perceiver.model.text import clm
from tests.model.clm_helpers import MAX_LATENTS, clm_config, clm_model
from tests.model.helpers import assert_close, gradients, token_ids

LENGTHS = [4, 17, 1, 9, 5]


def hf_model() -> clm.PerceiverCausalLanguageModel:
    config = clm.PerceiverCausalLanguageModelConfig(clm_config(cross_attention_dropout=0.0))
    return clm.PerceiverCausalLanguageModel(config, clm_model(clm_config(cross_attention_dropout=0.0))).eval()


def flattened() -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    documents = [token_ids(length) for length in LENGTHS]
    batch = DataCollatorWithFlattening()([{"input_ids": ids.tolist()} for ids in documents])
    return documents, dict(batch)


def one_by_one(
    model: clm.PerceiverCausalLanguageModel, documents: list[torch.Tensor]
) -> tuple[list[Any], torch.Tensor]:
    """Outputs of each document alone, and the mean loss over the labels of all."""
    alone = [model(ids[None], labels=ids[None], prefix_len=max(len(ids) - MAX_LATENTS, 0)) for ids in documents]
    # the last latent of each has no label
    counts = torch.tensor([min(len(ids), MAX_LATENTS) - 1 for ids in documents])
    return alone, (torch.stack([one.loss for one in alone]) * counts).sum() / counts.sum()


def test_flattened_documents_have_the_logits_and_the_loss_of_each_alone() -> None:
    model, (documents, batch) = hf_model(), flattened()
    assert set(batch) == {"input_ids", "labels", "position_ids"}
    result = model(**batch)
    alone, expected = one_by_one(model, documents)
    torch.testing.assert_close(result.logits, torch.cat([one.logits for one in alone], dim=1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result.loss, expected, atol=1e-5, rtol=1e-5)
    result.loss.backward()
    found = gradients(model)
    expected.backward()
    assert_close(found, gradients(model))


def test_a_step_of_trainer_is_that_of_the_documents_one_by_one(tmp_path: Path) -> None:
    model, same, (documents, _) = hf_model(), hf_model(), flattened()
    same.load_state_dict(model.state_dict())
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=len(documents),
        optim="sgd",
        learning_rate=0.5,
        max_grad_norm=0.0,
        max_steps=1,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    data: Any = [{"input_ids": ids.tolist()} for ids in documents]
    trainer = Trainer(model, arguments, data_collator=DataCollatorWithFlattening(), train_dataset=data)
    trainer.train()
    _, expected = one_by_one(same, documents)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected.item(), abs=1e-4)  # rounded to that
    expected.backward()
    torch.optim.SGD(same.parameters(), lr=0.5).step()
    assert_close(model.state_dict(), same.state_dict())


def test_labels_of_the_first_tokens_do_not_count() -> None:
    """transformers' collator leaves them out; that of others may not."""
    model, (_, batch) = hf_model(), flattened()
    assert (batch["labels"] == -100).sum() == len(LENGTHS)
    expected = model(**batch).loss
    torch.testing.assert_close(model(**{**batch, "labels": batch["input_ids"]}).loss, expected)


def test_several_rows_and_the_body() -> None:
    model = hf_model()
    x = token_ids(2, 12)
    position_ids = torch.tensor([[*range(7), *range(5)], [*range(12)]])
    expected = model(x.reshape(1, -1), position_ids=position_ids.reshape(1, -1))
    assert expected.logits.shape == (1, 15, 37) and expected.past_key_values is None
    torch.testing.assert_close(model(x, position_ids=position_ids).logits, expected.logits)
    embeddings = model.get_input_embeddings()(x)
    torch.testing.assert_close(model(inputs_embeds=embeddings, position_ids=position_ids).logits, expected.logits)
    mask = torch.ones_like(x)
    states = model(x, position_ids=position_ids, attention_mask=mask, output_hidden_states=True).hidden_states
    assert len(states) == 3
    torch.testing.assert_close(model.backend_model.logits(states[-1]), expected.logits)


@pytest.mark.parametrize(
    ("positions", "kwargs", "message"),
    [
        ([0, 1, 2, 0, 1, 3], {}, "position_ids of packed documents must count the tokens of each from 0 on"),
        ([0, 1, 2, 0, 1, 2], {"use_cache": True}, "packed documents take no cache"),
        ([0, 1, 2, 0, 1, 2], {"prefix_len": 1}, "no prefix_len"),
        ([1, 2, 3, 4, 5, 6], {}, "position_ids must count the tokens of each example from 0 on"),
    ],
)
def test_what_is_no_packing(positions, kwargs, message) -> None:
    with pytest.raises(ValueError, match=message):
        hf_model()(token_ids(1, 6), position_ids=torch.tensor([positions]), **kwargs)
