"""vLLM: process life, client, plug-in. The only room that knows vLLM; imports no megatron."""
