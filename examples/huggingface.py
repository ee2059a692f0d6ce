"""Fine-tunes a Hugging Face model with the Trainer; every sequence is spread over all processes.

    torchrun --nproc-per-node 2 examples/huggingface.py

With one process it is the plain Trainer with eager attention, and its losses are the same. Model and data are made here: a
small random Llama learns sequences that repeat themselves.
"""

import tempfile

import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

import weft

TOKENS, WORDS = 96, 61


def data(sequences=32):
    """Whole sequences: each process has all of them, and takes its own tokens of each."""
    start = torch.randint(0, WORDS, (sequences, TOKENS // 4))
    return [{"input_ids": ids, "labels": ids} for ids in start.repeat(1, 4)]


class SequenceParallelTrainer(Trainer):
    """Every process sees the same batches and holds its part of every sequence; DDP takes the mean of the gradients."""

    def __init__(self, *args, plans, **kwargs):
        super().__init__(*args, **kwargs)
        self.plans = plans
        self.model_accepts_loss_kwargs = False  # the loss below is a mean already, of micro-batches too

    def get_train_dataloader(self):  # not cut by process
        order = torch.Generator().manual_seed(self.args.seed)
        return torch.utils.data.DataLoader(self.train_dataset, self.args.per_device_train_batch_size, shuffle=True,
                                           generator=order, collate_fn=self.data_collator)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        batch = weft.shard_batch(dict(inputs), self.plans[0])
        outputs = model(**batch, weft_plan=self.plans)
        loss = weft.cross_entropy(outputs.logits, batch["shift_labels"], self.plans[0])
        return (loss, outputs) if return_outputs else loss


class OneProcessTrainer(Trainer):
    """What the other is compared with: the plain Trainer, with the same order of batches."""

    get_train_dataloader = SequenceParallelTrainer.get_train_dataloader


def main():
    set_seed(7)
    arguments = TrainingArguments(tempfile.mkdtemp(), num_train_epochs=2, per_device_train_batch_size=4, learning_rate=3e-3,
                                  logging_steps=4, save_strategy="no", report_to=[], use_cpu=True, ddp_backend="gloo",
                                  gradient_checkpointing=True, disable_tqdm=True, dataloader_pin_memory=False)
    config = LlamaConfig(vocab_size=WORDS, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2)
    examples = data()
    if dist.is_initialized() and dist.get_world_size() > 1:
        weft.register_with_transformers()
        model = LlamaForCausalLM._from_config(config, attn_implementation="weft")
        trainer = SequenceParallelTrainer(model, arguments, train_dataset=examples,
                                          plans=weft.plans_for_model(config, tokens=TOKENS))
    else:
        trainer = OneProcessTrainer(LlamaForCausalLM._from_config(config, attn_implementation="eager"), arguments,
                                    train_dataset=examples)
    trainer.train()
    if trainer.is_world_process_zero():
        print("losses", *(entry["loss"] for entry in trainer.state.log_history if "loss" in entry), flush=True)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
