"""The fast CPU path: attention per document, NF4+LoRA linear as one function, loss without stored logits.

Everything enters through public hooks (transformers' attention interface, PEFT's custom modules, an overridden
``compute_loss``); ``select`` says where it applies. Derivations stand beside each backward pass, and tests compare
losses and gradients with the plain path in fp32 and bf16.
"""
