"""Train the two bundled models again and print what they are worth as pruning examples.

    python scripts/train_bundled.py                     # both, into src/deadhead/bundled/
    python scripts/train_bundled.py --only decoder --seed 1 --out models

What is printed: size, training time, dense accuracy, accuracy with all heads removed, and the
greedy curve: each step tries every remaining head and removes the one that keeps the calibration
accuracy highest. A head is free while the test accuracy stays within one point of dense.
Encoder: accuracy over rows, labels balanced. Decoder: mean over paradigms of the share of pairs
whose good half has the higher log-likelihood, summed over the tokens after `<s>`, `</s>` included.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch.nn.functional import log_softmax
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from deadhead import bundled

Batch = dict[str, torch.Tensor]
Accuracy = Callable[[str], dict[str, float]]

MAX_TOKENS = 64
BATCH = 64
FREE = 0.01
N_TRAIN = {"encoder": 120_000, "decoder": 100_000}
STEPS = {"encoder": 6_000, "decoder": 3_600}
# (the shortest share of the batches, the share of the steps that draws from it)
CURRICULUM = ((0.15, 0.2), (0.5, 0.25), (1.0, 0.55))
N_CALIBRATION = 1_200
N_TEST = 3_000
LEARNING_RATE = {"encoder": 1e-3, "decoder": 3e-3}


def word_tokenizer(sentences: list[str], special: list[str], template: str) -> Tokenizer:
    """Give every word of the sentences an id, after the special tokens."""
    splitter = pre_tokenizers.Whitespace()
    words = {word for line in sentences for word, _ in splitter.pre_tokenize_str(line)}
    vocabulary = {word: i for i, word in enumerate([*special, *sorted(words)])}
    unknown = next(token for token in special if "unk" in token.lower())
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(token, vocabulary[token]) for token in special]
    )
    return tokenizer


def new_encoder() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Make an untrained BERT classifier and its tokenizer."""
    sentences = [row["sentence"] for row in bundled.sentiment("train", 30_000)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=word_tokenizer(sentences, special, "[CLS] $A [SEP]"),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=MAX_TOKENS,
        model_input_names=["input_ids", "attention_mask"],
    )
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        num_hidden_layers=4,
        num_attention_heads=6,
        intermediate_size=96,
        max_position_embeddings=MAX_TOKENS,
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.05,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(bundled.LABELS)),
        label2id={label: i for i, label in enumerate(bundled.LABELS)},
    )
    return BertForSequenceClassification(config), tokenizer


def new_decoder() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Make an untrained OPT language model and its tokenizer."""
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=word_tokenizer(bundled.text("train", 30_000), special, "<s> $A"),
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=MAX_TOKENS,
        model_input_names=["input_ids", "attention_mask"],
    )
    config = OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        word_embed_proj_dim=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        ffn_dim=64,
        max_position_embeddings=MAX_TOKENS,
        dropout=0.0,
        attention_dropout=0.0,
        init_std=0.1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    return OPTForCausalLM(config), tokenizer


def by_length(ids: list[list[int]], size: int) -> list[list[int]]:
    """Group row numbers into batches of rows of similar length."""
    rows = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def padded(ids: list[list[int]], pad: int) -> Batch:
    """Stack token ids. Shape: (batch, tokens)."""
    width = max(map(len, ids))
    return {
        "input_ids": torch.tensor([row + [pad] * (width - len(row)) for row in ids]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids]),
    }


def encoder_batches(tokenizer, rows: list[dict], size: int = BATCH) -> list[Batch]:
    """Turn labeled sentences into batches."""
    ids = tokenizer([row["sentence"] for row in rows])["input_ids"]
    labels = [row["label"] for row in rows]
    return [
        padded([ids[i] for i in group], tokenizer.pad_token_id)
        | {"labels": torch.tensor([labels[i] for i in group])}
        for group in by_length(ids, size)
    ]


def decoder_batches(tokenizer, sentences: list[str], size: int = BATCH) -> list[Batch]:
    """Turn sentences into batches of `<s> sentence </s>`, with the row numbers."""
    ids = [[*row, tokenizer.eos_token_id] for row in tokenizer(sentences)["input_ids"]]
    batches = []
    for group in by_length(ids, size):
        batch = padded([ids[i] for i in group], tokenizer.pad_token_id)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        batches.append(batch | {"labels": labels, "rows": torch.tensor(group)})
    return batches


def curriculum(n: int, steps: int) -> list[int]:
    """Choose a batch for every step, short sentences first. The batches are sorted by length."""
    order: list[int] = []
    for shortest, share in CURRICULUM:
        pool, wanted = int(n * shortest), len(order) + round(steps * share)
        while len(order) < wanted:
            order += torch.randperm(pool).tolist()[: wanted - len(order)]
    return order


def train(
    model: PreTrainedModel, batches: list[Batch], steps: int, peak: float
) -> tuple[float, float]:
    """Train on batches sorted by length, short ones first.

    Unit: seconds, by the clock and of processor time.
    """
    model.train()
    order = curriculum(len(batches), steps)
    optimizer = torch.optim.AdamW(model.parameters(), peak, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peak, total_steps=len(order), pct_start=0.1, cycle_momentum=False
    )
    start, busy = time.monotonic(), time.process_time()
    running = 0.0
    for step, index in enumerate(order, start=1):
        batch = {key: value for key, value in batches[index].items() if key != "rows"}
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        running += loss.item()
        if step % 200 == 0:
            print(f"  step {step}/{len(order)} loss {running / 200:.4f}", flush=True)
            running = 0.0
    model.eval()
    return time.monotonic() - start, time.process_time() - busy


class HeadMask:
    """Multiply the input of every attention output projection by a mask: 1 = head kept."""

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config
        self.kept = torch.ones(config.num_hidden_layers, config.num_attention_heads)
        self.head_dim = config.hidden_size // config.num_attention_heads
        suffixes = ("attention.output.dense", "self_attn.out_proj")
        projections = [m for name, m in model.named_modules() if name.endswith(suffixes)]
        for block, projection in enumerate(projections):
            projection.register_forward_pre_hook(self._hook(block))

    def _hook(self, block: int):
        def hook(_module, inputs):
            mask = self.kept[block].repeat_interleave(self.head_dim)
            return (inputs[0] * mask, *inputs[1:])

        return hook


@torch.inference_mode()
def classification_accuracy(model, batches: list[Batch]) -> dict[str, float]:
    """Measure accuracy per class, and over all rows as "all"."""
    predicted, labels = [], []
    for batch in batches:
        labels.append(batch["labels"])
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        predicted.append(logits.argmax(-1))
    right, labels = torch.cat(predicted) == torch.cat(labels), torch.cat(labels)
    table = {
        name: right[labels == i].double().mean().item() for i, name in enumerate(bundled.LABELS)
    }
    return {"all": right.double().mean().item()} | table


@torch.inference_mode()
def log_likelihoods(model, batches: list[Batch], n: int) -> torch.Tensor:
    """Sum the log probability of each row's tokens after `<s>`, `</s>` included. Unit: nats."""
    totals = torch.empty(n)
    for batch in batches:
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        targets = batch["input_ids"][:, 1:]
        scores = log_softmax(logits, -1).gather(-1, targets[..., None])[..., 0]  # (batch, tokens)
        totals[batch["rows"]] = (scores * batch["attention_mask"][:, 1:]).sum(-1)
    return totals


def pair_accuracy(model, batches: list[Batch], uids: list[str]) -> dict[str, float]:
    """Measure the share of pairs whose good half is likelier; "all" is the mean over paradigms."""
    good, bad = log_likelihoods(model, batches, 2 * len(uids)).view(-1, 2).T
    right = (good > bad).double()
    table = {
        uid: right[[i for i, other in enumerate(uids) if other == uid]].mean().item()
        for uid in bundled.PARADIGMS
    }
    return {"all": sum(table.values()) / len(table)} | table


def encoder_judge(model, tokenizer) -> Accuracy:
    """Prepare calibration and test accuracy of the encoder."""
    sizes = {"calibration": N_CALIBRATION, "test": N_TEST}
    data = {s: encoder_batches(tokenizer, bundled.sentiment(s, n)) for s, n in sizes.items()}
    return lambda split: classification_accuracy(model, data[split])


def decoder_judge(model, tokenizer) -> Accuracy:
    """Prepare calibration and test accuracy of the decoder."""
    data, uids = {}, {}
    for split, n in {"calibration": N_CALIBRATION // 2, "test": N_TEST}.items():
        rows = bundled.minimal_pairs(split, n)
        lines = [row[half] for row in rows for half in ("sentence_good", "sentence_bad")]
        data[split] = decoder_batches(tokenizer, lines, 2 * BATCH)
        uids[split] = [row["UID"] for row in rows]
    return lambda split: pair_accuracy(model, data[split], uids[split])


def greedy_curve(mask: HeadMask, judge: Accuracy) -> Iterator[tuple[int, str, float, float]]:
    """Remove heads one by one, each time the one that calibration accuracy misses least.

    Yields the number removed, the head, and the calibration and test accuracy without them.
    Cost: heads * (heads + 1) / 2 calibration passes.
    """
    for removed in range(1, mask.kept.numel() + 1):
        best, chosen = -1.0, (0, 0)
        for block, head in mask.kept.nonzero().tolist():
            mask.kept[block, head] = 0.0
            score = judge("calibration")["all"]
            mask.kept[block, head] = 1.0
            if score > best:
                best, chosen = score, (block, head)
        mask.kept[chosen] = 0.0
        yield removed, f"{chosen[0]}.{chosen[1]}", best, judge("test")["all"]


def measure(model: PreTrainedModel, judge: Accuracy, *, greedy: bool) -> None:
    """Print what the model is worth, dense and pruned."""
    mask = HeadMask(model)
    dense = judge("test")
    print("dense test accuracy:", json.dumps({k: round(v, 4) for k, v in dense.items()}))
    mask.kept.zero_()
    print(f"all heads removed: {judge('test')['all']:.4f}")
    mask.kept.fill_(1.0)
    single = []
    for block in range(len(mask.kept)):
        mask.kept[block] = 0.0
        single.append(judge("test")["all"])
        mask.kept[block] = 1.0
    print("one block removed:", " ".join(f"{value:.4f}" for value in single))
    if not greedy:
        return
    heads, free, still_free = mask.kept.numel(), 0, True
    print("removed head calibration test")
    for removed, head, calibration, test in greedy_curve(mask, judge):
        still_free = still_free and dense["all"] - test <= FREE + 1e-9  # 30 of 3000 is one point
        free = removed if still_free else free
        print(f"{removed:7d} {head:>4} {calibration:11.4f} {test:.4f}", flush=True)
    print(f"free: {free} of {heads} heads = {free / heads:.3f}")


def make(name: str, seed: int, folder: Path) -> None:
    """Train and save one model."""
    torch.manual_seed(seed)
    if name == "encoder":
        model, tokenizer = new_encoder()
        batches = encoder_batches(tokenizer, bundled.sentiment("train", N_TRAIN[name], seed))
    else:
        model, tokenizer = new_decoder()
        batches = decoder_batches(tokenizer, bundled.text("train", N_TRAIN[name], seed))
    wall, processor = train(model, batches, STEPS[name], LEARNING_RATE[name])
    print(f"{name}: trained in {wall:.0f} s, {processor:.0f} s of processor time")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # a name that transformers 4 knows too
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes 0600, which a wheel would keep


def load(name: str, folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, Accuracy]:
    """Load a saved model as a user would, with its judge."""
    auto, judge = {
        "encoder": (AutoModelForSequenceClassification, encoder_judge),
        "decoder": (AutoModelForCausalLM, decoder_judge),
    }[name]
    model = auto.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{name}: {model.num_parameters()} parameters, {size / 1e6:.2f} MB in {folder}")
    return model, tokenizer, judge(model, tokenizer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=bundled.MODELS, help="make one model instead of both")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=bundled.model_path("encoder").parent)
    parser.add_argument("--threads", type=int, default=1, help="more do not help")
    parser.add_argument("--no-train", action="store_true", help="only measure what is in --out")
    parser.add_argument("--no-greedy", action="store_true", help="skip the curve")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in [arguments.only] if arguments.only else bundled.MODELS:
        folder = arguments.out / name
        if not arguments.no_train:
            make(name, arguments.seed, folder)
        model, _, judge = load(name, folder)
        measure(model, judge, greedy=not arguments.no_greedy)


if __name__ == "__main__":
    main()
