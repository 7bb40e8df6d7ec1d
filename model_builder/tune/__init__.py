"""Fine-tunes a pretrained decoder on pairs: LoRA, or its matrices themselves."""
