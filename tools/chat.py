"""Records what transformers renders chat templates to: tests/golden/chat.json.

`python tools/chat.py`. The templates are small ones of our own, in the shapes that published models
use: headers and a date (Llama 3), a default system message (Qwen), brackets and strict roles
(Mistral), markers (ChatML), names with line ends (Zephyr), and one that uses what is left.
"""

import json
from pathlib import Path

from transformers.utils.chat_template_utils import render_jinja_template

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

TEMPLATES = {
    "headers": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "1 Jan 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{{- "[head]system[/head]\\n\\nToday is " + date_string + ".\\n" + system + "[end]" }}
{%- for m in messages %}
    {{- '[head]' + m['role'] + '[/head]\\n\\n' + m['content'] | trim + '[end]' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '[head]assistant[/head]\\n\\n' }}
{%- endif %}
""",
    "default-system": """{%- if tools %}
    {{- '[tools]' }}{% for t in tools %}{{ t | tojson }}{% endfor %}
{%- elif messages[0].role == 'system' %}
    {{- '[start]system\\n' + messages[0].content + '[stop]\\n' }}
{%- else %}
    {{- '[start]system\\nBe kind.[stop]\\n' }}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1) %}
{%- for m in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if m.role == "user" and m.content is string and not m.content.startswith('[') %}
        {%- set ns.last = index %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- if loop.index0 < ns.last %}{% continue %}{% endif %}
    {%- if (m.role == "user") or (m.role == "system" and not loop.first) %}
        {{- '[start]' + m.role + '\\n' + m.content + '[stop]' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '[start]assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- 'nothing' }}
    {%- endif %}
{%- endif %}
""",
    "brackets": """{{ bos_token }}{% for m in messages %}\
{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Roles must alternate!') }}{% endif %}\
{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}\
{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}""",
    "markers": """{% for m in messages %}{{'<|open|>' + m['role'] + '\n' + m['content'] + '<|shut|>'\
 + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|open|>assistant\n' }}{% endif %}""",
    "names": """{% for m in messages %}
{% if m['role'] == 'user' %}
{{ '<|user|>\n' + m['content'] + eos_token }}
{% elif m['role'] == 'assistant' %}
{% generation %}{{ '<|assistant|>\n'  + m['content'] + eos_token }}{% endgeneration %}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}""",
    "odds": """{#- a comment -#}
{%- macro turn(m, mark='*') -%}
{{ mark }}{{ m.role.upper() }}{{ mark }} {{ m.content.strip().split(' ')[-1] }}|{{ m['content'] }}
{%- endmacro -%}
    {%- if tools is not none or documents is not none %}never{% endif %}
{% for m in messages %}
    {%- generation -%}
{{ turn(m) }}
    {%- endgeneration %}
 {{ m | tojson }} {{ m | tojson(indent=2) }}
{{ {'a': [1, 2.5, none, true], 'é<&>': "it's"} | tojson }}
{% endfor %}
{{ unheard_of }}{{ 'x' if unheard_of is defined else 'y' }} {{ "%s-%d" | format("a", 3) }}
{{ ['b', 'a'] | sort | join(',') }} {{ 'a.b'.replace('.', '-') }} {{ 7 // 2 }} {{ 2 ** 3 }}
""",
}

MESSAGES = ["The mother tongue of Danielle Darrieux is", "Où est 東京?", 'a "quoted" <b> & it\'s']

if __name__ == "__main__":
    cases = []
    for name, template in TEMPLATES.items():
        for message in MESSAGES:
            chat = [{"role": "user", "content": message}]
            rendered, _ = render_jinja_template(
                [chat], chat_template=template, add_generation_prompt=True, **TOKENS
            )
            cases.append({"name": name, "message": message, "rendered": rendered[0]})
    golden = {"tokens": TOKENS, "templates": TEMPLATES, "cases": cases}
    path = Path(__file__).parent.parent / "tests/golden/chat.json"
    path.write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n")
