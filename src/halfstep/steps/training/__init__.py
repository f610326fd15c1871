"""Training with quantization in the loop: what the step `finetune` and `halfstep.prepare` stand on."""
