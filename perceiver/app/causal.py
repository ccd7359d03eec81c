"""Playground of the causal language model: a continuation that comes token by token."""

from __future__ import annotations

from functools import partial
from time import perf_counter
from typing import Any

import torch

from perceiver.app.playground import Field, Outputs, Playground, coloured, seen_by_last, with_progress
from perceiver.model.core.causal import prompt_prefix_len

MAX_CHARACTERS, MAX_NEW_TOKENS = 100_000, 2048


class ContinuationPlayground(Playground):
    """Causal language model."""

    hint = "Temperature 0 takes the most likely token. Prefix is attended to, latents are computed with."

    def __init__(self, folder: str, task: str):
        super().__init__(folder, task)
        self.fields = [
            Field("text", "Prompt", "text", "A man was reading a book", high=MAX_CHARACTERS),
            Field("num_tokens", "New tokens", value=64, low=1, high=MAX_NEW_TOKENS),
            Field("num_latents", "Latents of the prompt", value=1, low=1, high=self.model.backend_model.max_latents),
            Field("temperature", "Temperature", value=0.8, low=0, high=2, step=0.1),
            Field("top_k", "Top k", value=40, low=1, high=self.model.vocab_size),
        ]

    def run(self, text: str, num_tokens: int, num_latents: int, temperature: float, top_k: int) -> Outputs:
        tokenizer, backend = self.pipeline.tokenizer, self.model.backend_model
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").to(self.model.device)["input_ids"]
        num_latents = min(num_latents, ids.shape[1])
        windows = {"max_seq_len": backend.max_seq_len, "max_latents": backend.max_latents}
        prefix_len = prompt_prefix_len(ids.shape[1], num_latents, **windows)
        first = max(ids.shape[1] - backend.max_seq_len, 0)
        prefix, latents = tokenizer.decode(ids[0, first:prefix_len]), tokenizer.decode(ids[0, prefix_len:])
        yield {"kind": "weights", "title": "Prefix, and latents in colour", "parts": [[prefix, 0.0], [latents, 0.6]]}
        drawn = {"do_sample": True, "temperature": temperature, "top_k": top_k} if temperature else {"do_sample": False}
        arguments: dict[str, Any] = {"max_new_tokens": num_tokens, "num_latents": num_latents, **drawn}
        steps = with_progress(partial(self.model.generate, ids, pad_token_id=tokenizer.pad_token_id, **arguments))
        next(steps)  # the prompt
        start, new, shown = perf_counter(), [], ""
        for step in steps:
            if not isinstance(step, list):
                break
            new += step
            decoded = tokenizer.decode(new, skip_special_tokens=True)
            if not decoded.endswith("\ufffd"):  # the bytes of a character come one by one
                yield {"kind": "stream", "text": decoded[len(shown) :]}
                shown = decoded
        rate = len(new) / max(perf_counter() - start, 1e-9)
        yield {"kind": "note", "text": f"{len(new)} tokens, {rate:.1f} tokens/s"}
        context = torch.cat([ids[0].cpu(), torch.tensor(new[:-1], dtype=torch.long)])
        first, weights = seen_by_last(self.model, context)
        yield coloured("What the last token was predicted from", tokenizer, context[first:].tolist(), weights)
