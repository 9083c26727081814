"""Chat templates of the shapes that released models have, with and without {% generation %} blocks."""

# [[ and ]] stand where a template marks the assistant's text.
SHAPES = {
    "chatml": """
{%- if messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\\nBe of help.<|im_end|>\\n' }}
{%- endif %}
{%- for m in messages %}
    {{- '<|im_start|>' + m['role'] + '\\n' }}
    {%- if m['role'] == 'assistant' %}
        [[{{- m['content'] + '<|im_end|>' }}]]
        {{- '\\n' }}
    {%- else %}
        {{- m['content'] + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}""",
    "llama2": """
{%- if messages[0]['role'] == 'system' %}
    {%- set first, rest = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n', messages[1:] %}
{%- else %}
    {%- set first, rest = '', messages %}
{%- endif %}
{%- for m in rest %}
    {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate') }}
    {%- endif %}
    {%- if m['role'] == 'user' %}
        {{- bos_token + '[INST] ' + (first if loop.first else '') + m['content'] | trim + ' [/INST]' }}
    {%- else %}
        [[{{- ' ' + m['content'] | trim + ' ' + eos_token }}]]
    {%- endif %}
{%- endfor %}""",
    "llama3": """
{%- for m in messages %}
    {%- set head = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' %}
    {%- if loop.first %}
        {%- set head = bos_token + head %}
    {%- endif %}
    {{- head }}
    {%- if m['role'] == 'assistant' %}
        [[{{- m['content'] | trim + '<|eot_id|>' }}]]
    {%- else %}
        {{- m['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}""",
    "gemma": """{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set first, rest = messages[0]['content'] | trim + '\\n\\n', messages[1:] %}
{%- else %}
    {%- set first, rest = '', messages %}
{%- endif %}
{%- for m in rest %}
    {{- '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' + (first if loop.first else '') }}
    {%- if m['role'] == 'assistant' %}
        [[{{- m['content'] | trim + '<end_of_turn>' }}]]
        {{- '\\n' }}
    {%- else %}
        {{- m['content'] | trim + '<end_of_turn>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<start_of_turn>model\\n' }}
{%- endif %}""",
    "zephyr": """{% for m in messages %}
{% if m['role'] == 'user' %}
{{ '<|user|>\\n' + m['content'] + eos_token }}
{% elif m['role'] == 'system' %}
{{ '<|system|>\\n' + m['content'] + eos_token }}
{% elif m['role'] == 'assistant' %}
{{ '<|assistant|>\\n' }}[[{{ m['content'] + eos_token }}]]{{ '' }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}""",
}
NAMES = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
NAMES += ("<start_of_turn>", "<end_of_turn>")
ENDS = {
    "chatml": "<|im_end|>",
    "llama2": "</s>",
    "llama3": "<|eot_id|>",
    "gemma": "<end_of_turn>",
    "zephyr": "</s>",
}
TEXTS = (
    " What is 2 + 2?",
    "It is 4.",
    "And\n\nthe café <b>there</b>? ",
    " Open.\nUntil ten \n",
    "日本!",
    "assistant\nI don't know",
)


def template(shape: str, marked: bool = False) -> str:
    """A template, its assistant's text in {% generation %} blocks if `marked`."""
    blocks = ("{% generation %}", "{% endgeneration %}") if marked else ("", "")
    return SHAPES[shape].replace("[[", blocks[0]).replace("]]", blocks[1])


def chats() -> list[list[dict[str, str]]]:
    """Chats of one to three turns, with and without a system message."""
    turns = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(TEXTS)]
    return [turns[:2], turns, [{"role": "system", "content": "Be brief."}, *turns[2:]]]
