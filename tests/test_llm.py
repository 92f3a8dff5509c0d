"""LLM with the real demo model: order, shapes, chat, interruption, and the interpreter's end."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from octavo import LLM, RequestOutput, SamplingParams
from octavo.app.errors import ContextLengthError, RequestError, StartupError

GREEDY = SamplingParams(temperature=0, max_tokens=12)
CAPITAL = "The capital of France is"


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(model="demo", max_model_len=512, kv_cache_memory_bytes="256MiB", max_num_seqs=16) as llm:
        yield llm


def generate(llm: LLM, prompts: Any, params: Any = GREEDY) -> list[RequestOutput]:
    return llm.generate(prompts, params, use_tqdm=False)


def test_generates_text(llm: LLM) -> None:
    (output,) = generate(llm, CAPITAL)
    (completion,) = output.outputs
    assert "Paris" in completion.text
    assert (output.prompt, output.finished, completion.index) == (CAPITAL, True, 0)
    assert (completion.finish_reason, completion.stop_reason, len(completion.token_ids)) == (
        "length",
        None,
        12,
    )
    assert output.metrics is not None
    assert output.metrics.arrival_s <= output.metrics.scheduled_s <= output.metrics.first_token_s


def test_results_come_in_the_order_of_the_prompts(llm: LLM) -> None:
    prompts = [f"Count from {number}:" for number in range(40)]
    lengths = [1 + 7 * number % 20 for number in range(40)]
    params = [SamplingParams(temperature=0, max_tokens=length, ignore_eos=True) for length in lengths]
    outputs = generate(llm, prompts, params)
    assert [output.prompt for output in outputs] == prompts
    assert [len(output.outputs[0].token_ids) for output in outputs] == lengths
    assert len({output.request_id for output in outputs}) == 40


def test_every_form_of_prompt_means_the_same(llm: LLM) -> None:
    tokenizer = llm.get_tokenizer()
    assert tokenizer is not None
    ids = tokenizer.encode(CAPITAL)
    forms: list[Any] = [
        CAPITAL,
        [CAPITAL],
        ids,
        [ids],
        {"prompt": CAPITAL},
        {"prompt_token_ids": ids},
        [{"prompt_token_ids": ids, "cache_salt": "mine"}],
    ]
    texts = set()
    for form in forms:
        (output,) = generate(llm, form)
        texts.add(output.outputs[0].text)
        assert list(output.prompt_token_ids) == ids
    assert len(texts) == 1
    assert generate(llm, []) == []


def test_text_is_decoded_whether_in_one_go_or_as_it_grows(llm: LLM) -> None:
    (whole,) = generate(llm, "Three colours:")
    (watched,) = generate(
        llm, "Three colours:", SamplingParams(temperature=0, max_tokens=12, stop=["\0never"])
    )
    (bare,) = generate(llm, "Three colours:", SamplingParams(temperature=0, max_tokens=12, detokenize=False))
    assert whole.outputs == watched.outputs
    assert bare.outputs[0].token_ids == whole.outputs[0].token_ids
    assert bare.outputs[0].text == ""


def test_a_stop_string_ends_it(llm: LLM) -> None:
    (whole,) = generate(llm, CAPITAL)
    stop = whole.outputs[0].text[4:8]
    (cut,) = generate(llm, CAPITAL, SamplingParams(temperature=0, max_tokens=12, stop=[stop]))
    assert cut.outputs[0].text == whole.outputs[0].text.split(stop)[0]
    assert (cut.outputs[0].finish_reason, cut.outputs[0].stop_reason) == ("stop", stop)


def test_n_completions_differ_and_repeat_with_the_seed(llm: LLM) -> None:
    params = SamplingParams(n=3, temperature=1.0, max_tokens=8, seed=11, ignore_eos=True)
    (first,) = generate(llm, "Once upon a time", params)
    (second,) = generate(llm, "Once upon a time", params)
    assert [output.index for output in first.outputs] == [0, 1, 2]
    texts = [output.text for output in first.outputs]
    assert len(set(texts)) == 3
    assert texts == [output.text for output in second.outputs]


def test_logprobs(llm: LLM) -> None:
    (output,) = generate(llm, CAPITAL, SamplingParams(temperature=0, max_tokens=4, logprobs=2))
    completion = output.outputs[0]
    assert completion.logprobs is not None and completion.cumulative_logprob is not None
    assert len(completion.logprobs) == 4
    for token_id, position in zip(completion.token_ids, completion.logprobs, strict=True):
        assert list(position)[0] == token_id
        assert position[token_id].rank == 1
        assert len(position) == 2
    sampled = [p[t].logprob for t, p in zip(completion.token_ids, completion.logprobs, strict=True)]
    assert completion.cumulative_logprob == pytest.approx(sum(sampled))
    tokenizer = llm.get_tokenizer()
    assert tokenizer is not None
    for position in completion.logprobs:
        assert {t: tokenizer.token_text(t) for t in position} == {
            t: p.decoded_token for t, p in position.items()
        }


def test_chat_renders_the_template(llm: LLM) -> None:
    messages = [{"role": "user", "content": "What is the capital of France? Answer with one word."}]
    (one,) = llm.chat(messages, GREEDY, use_tqdm=False)
    assert "Paris" in one.outputs[0].text
    assert one.prompt is not None and "<|im_start|>user" in one.prompt
    several = llm.chat([messages, messages], GREEDY, use_tqdm=False)
    assert [output.outputs[0].text for output in several] == [one.outputs[0].text] * 2


def test_streaming_adds_up(llm: LLM) -> None:
    prompt = llm.render_chat([{"role": "user", "content": "Name two fruits."}])
    deltas = list(llm.stream(prompt, GREEDY))
    (whole,) = generate(llm, {"prompt_token_ids": prompt.token_ids})
    assert "".join(delta.text for delta in deltas) == whole.outputs[0].text
    assert deltas[-1].finish_reason is not None


def test_the_models_own_defaults_are_used_without_params(llm: LLM) -> None:
    (output,) = llm.generate("Hi", use_tqdm=False)
    assert 1 <= len(output.outputs[0].token_ids) <= (llm.get_default_sampling_params().max_tokens or 0)


@pytest.mark.parametrize(
    ("prompts", "params", "error", "words"),
    [
        ("", GREEDY, RequestError, "must not be empty"),
        ([[1, 10**6]], GREEDY, RequestError, "got 1000000"),
        ([[1] * 600], GREEDY, ContextLengthError, "512 tokens"),
        ([[1] * 500], SamplingParams(max_tokens=50), ContextLengthError, "12"),
        (["a", "b"], [GREEDY], ValueError, "one per prompt (2), got 1"),
        ([{"text": "a"}], GREEDY, ValueError, "prompts[0] must hold only"),
        ([{"prompt_token_ids": "a"}], GREEDY, TypeError, "prompts[0] must hold prompt_token_ids as a list"),
        ([3.5], GREEDY, TypeError, "prompts[0] must be text"),
    ],
)
def test_a_wrong_prompt_is_refused_and_nothing_runs(
    llm: LLM, prompts: Any, params: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught:
        generate(llm, prompts, params)
    assert words in str(caught.value)


def test_one_wrong_prompt_starts_none(llm: LLM) -> None:
    with pytest.raises(RequestError):
        generate(llm, [*["fine"] * 30, [10**6]])
    (output,) = generate(llm, CAPITAL)
    assert output.finished


def test_an_unknown_setting_is_a_type_error_with_the_nearest_name() -> None:
    with pytest.raises(TypeError, match="max_model_length is not a setting; did you mean max_model_len"):
        LLM(model="demo", max_model_length=10)
    with pytest.raises(ValueError, match="dtype must be one of"):
        LLM(model="demo", dtype="int3")
    with pytest.raises(StartupError):
        LLM(model="./no-such-model.gguf")


def test_an_interrupt_aborts_and_leaves_the_llm_usable(llm: LLM) -> None:
    endless = SamplingParams(temperature=0, max_tokens=None, ignore_eos=True)
    threading.Thread(target=_interrupt_main, args=(llm,)).start()
    with pytest.raises(KeyboardInterrupt):
        generate(llm, ["again and again"] * 8, endless)
    (output,) = generate(llm, CAPITAL)
    assert "Paris" in output.outputs[0].text
    assert llm.stats().num_running == 0
    assert llm.stats().num_waiting == 0


def _interrupt_main(llm: LLM) -> None:
    """Once it waits for the engine, and not at whatever it does before."""
    while not llm.stats().num_running:
        time.sleep(0.01)
    time.sleep(0.1)
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def test_calls_from_several_threads(llm: LLM) -> None:
    results: dict[int, str] = {}

    def work(number: int) -> None:
        results[number] = generate(llm, CAPITAL)[0].outputs[0].text

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and len(set(results.values())) == 1


def test_the_bar_is_shown_unless_told_otherwise(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    llm.generate([CAPITAL] * 2, GREEDY)
    assert "2/2" in capsys.readouterr().err
    llm.generate([CAPITAL] * 2, GREEDY, use_tqdm=False)
    assert capsys.readouterr().err == ""


def test_without_a_tokenizer_token_ids_work_and_text_does_not() -> None:
    with LLM(model="demo", max_model_len=64, kv_cache_memory_bytes="64MiB", skip_tokenizer_init=True) as llm:
        (output,) = generate(
            llm, {"prompt_token_ids": [1, 2, 3]}, SamplingParams(temperature=0, max_tokens=4)
        )
        assert (output.prompt, output.outputs[0].text) == (None, "")
        assert len(output.outputs[0].token_ids) == 4
        with pytest.raises(ValueError, match="no tokenizer"):
            generate(llm, "text")
        with pytest.raises(RequestError, match="without a tokenizer"):
            generate(llm, [[1]], SamplingParams(stop="x"))
    llm.close()
    with pytest.raises(RuntimeError, match="closed"):
        generate(llm, [[1]])


ENDLESS = (
    "import threading, time\n"
    "params = SamplingParams(max_tokens=None, ignore_eos=True)\n"
    "threading.Thread(target=llm.generate, args=(['on and on'], params, False), daemon=True).start()\n"
    "while not llm.stats().num_running: time.sleep(0.01)\n"
)


@pytest.mark.parametrize("ending", ["", "del llm", ENDLESS], ids=["at once", "collected", "while it runs"])
def test_the_interpreter_ends(ending: str) -> None:
    program = (
        "from octavo import LLM, SamplingParams\n"
        "llm = LLM(model='demo', max_model_len=64, kv_cache_memory_bytes='64MiB')\n"
        "out = llm.generate(['Hello'], SamplingParams(temperature=0, max_tokens=4), use_tqdm=False)\n"
        "print(len(out[0].outputs[0].token_ids))\n"
        f"{ending}\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr
    if ending == ENDLESS:
        # The thread that was cut off may have had time to say why, whole or in part; the engine itself has
        # nothing to say.
        assert "the engine fails" not in done.stderr
        assert done.stderr.count("Traceback") == done.stderr.count("(generate):\nTraceback")
    else:
        assert "Traceback" not in done.stderr
