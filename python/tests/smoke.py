"""The package on the repository's demo model, by plain Python: no NumPy, no PyTorch, no pip.

    PYTHONPATH=FOLDER python3 python/tests/smoke.py

FOLDER holds the package ``incise`` with its native module. ``tools/check_python_package`` holds the
package to transformers and PEFT.
"""

import _thread
import inspect
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import types
import unittest
import warnings
from pathlib import Path

import incise
from incise._editor import _HYPERPARAMETERS
from incise._error import keywords
from incise._progress import Listener
from incise._requests import EASYEDIT

DEMO = Path(__file__).resolve().parents[2] / "demo"
FACT = {"prompt": "{} played the", "subject": "Louis Armstrong", "target_new": "violin"}
PROMPT = "Louis Armstrong played the"


class Smoke(unittest.TestCase):
    """Each test has a copy of the model, open."""

    def setUp(self):
        warnings.simplefilter("ignore", incise.EngineWarning)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.model = self.folder / "model"
        shutil.copytree(DEMO, self.model)
        self.editor = incise.open(self.model, progress=False)
        self.settings = {
            "method": "r-rome",
            "stats": self.model / "stats",
            "hparams": self.model / "hparams.json",
            "contexts": self.model / "contexts.json",
        }

    def edit(self, requests=FACT, **more):
        """An edit by the model's own settings."""
        return self.editor.edit(requests, **{**self.settings, **more})

    def refused(self, call, *arguments, **keywords):
        """The error of a call."""
        with self.assertRaises(incise.Error) as caught:
            call(*arguments, **keywords)
        return caught.exception

    def weights(self, folder=None):
        """The bytes of a folder's weights."""
        return ((folder or self.model) / "model.safetensors").read_bytes()

    def test_an_edit_is_looked_at_written_applied_and_undone(self):
        before = self.weights()
        edit = self.edit()
        [fact] = edit.facts
        self.assertTrue(fact.succeeded)
        self.assertLess(fact.p_before, 0.01)
        self.assertGreater(fact.p_after, 0.9)
        self.assertEqual((fact.subject, fact.failed), ("Louis Armstrong", None))
        self.assertEqual([change.layer for change in edit.changes], [0])
        self.assertEqual(edit.hyperparameters["layers"], [0])
        self.assertIn("1 of 1 facts taken", repr(edit))

        self.assertEqual(self.editor.generate(PROMPT, 1).strip(), "trumpet")
        self.assertEqual(edit.generate(PROMPT, 1).strip(), "violin")
        self.assertEqual(self.weights(), before)

        patch = edit.save(self.folder / "facts.patch")
        [line] = (self.folder / "facts.patch.report.jsonl").read_text().splitlines()
        self.assertEqual(json.loads(line)["p_target"], [fact.p_before, fact.p_after])
        self.assertEqual(self.editor.generate(PROMPT, 1, patches=[patch]).strip(), "violin")

        [rounded] = edit.apply(self.folder / "edited")
        edited = self.weights(self.folder / "edited")
        [tensor], [old] = edit.tensors(), edit.tensors_before()
        self.assertEqual((tensor.name, tensor.dtype), (rounded.tensor, "BF16"))
        self.assertEqual(tensor.name, edit.changes[0].tensor)
        start = before.index(old.data)
        end = start + len(old.data)
        self.assertEqual(edited, before[:start] + tensor.data + before[end:])

        self.assertGreater(edit.lora(self.folder / "adapter"), 0)
        self.assertTrue((self.folder / "adapter/adapter_model.safetensors").exists())

        edit.apply_in_place()
        self.assertEqual(self.weights(), edited)
        self.assertEqual([entry.method for entry in incise.log(self.model)], ["r-rome"])
        self.assertIn("again", self.refused(edit.tensors).remedy)
        self.assertIn("start again", self.refused(self.editor.generate, PROMPT).remedy)
        undone = incise.undo(self.model)
        self.assertEqual([entry.number for entry in undone.changes], [1])
        self.assertEqual(self.weights(), before)
        self.assertEqual(incise.log(self.model), [])
        self.assertEqual([one.data for one in edit.tensors_before()], [old.data])

    def test_requests_come_in_every_form(self):
        file = self.folder / "facts.jsonl"
        file.write_text(json.dumps(FACT))
        counterfact = {
            "case_id": 7,
            "requested_rewrite": {**FACT, "target_new": {"str": "violin"}},
        }
        changed = [
            self.edit(requests).tensors()[0].data
            for requests in (FACT, [FACT], file, str(file), (fact for fact in [counterfact]))
        ]
        lists = {"prompts": [PROMPT], "subject": ["Louis Armstrong"], "target_new": ["violin"]}
        unread = {"ground_truth": ["trumpet"], "locality_inputs": {}, "rephrase_prompts": ["He"]}
        changed.append(self.edit(None, **lists, **unread).tensors()[0].data)
        changed.append(self.edit(None, **{k: v[0] for k, v in lists.items()}).tensors()[0].data)
        self.assertEqual(changed, changed[:1] * len(changed))

        short = self.refused(self.edit, None, **{**lists, "subject": []})
        self.assertEqual(short.field, "subject")
        self.assertIn("0 entries for 1 prompts", str(short))
        self.assertIn("prompts", str(self.refused(self.edit, FACT, **lists)))
        self.assertIn("sequential=1", self.refused(self.edit, sequential_edit=True).remedy)
        self.assertEqual(self.refused(self.edit, 7).field, "requests")
        self.assertEqual(self.refused(self.edit, [{"prompt": object()}]).code, "input")

    def test_one_text_stands_for_a_list_of_one(self):
        facts = [{**FACT, "id": "12"}, {**FACT, "id": "1", "subject": "Miles Davis"}]
        self.assertEqual([fact.id for fact in self.edit(facts, without="12").facts], ["1"])
        patch = self.edit().save(self.folder / "facts.patch")
        said = self.editor.generate(PROMPT, 1, patches=patch)
        self.assertEqual(said.strip(), "violin")

    def test_a_process_that_was_forked_says_so(self):
        self.edit()
        child = os.fork()
        if child == 0:
            try:
                self.edit()
            except incise.Error as error:
                os._exit(0 if "spawn" in error.remedy else 2)
            finally:
                os._exit(3)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)

    def test_errors_name_file_field_and_remedy(self):
        broken = self.refused(self.edit, [{**FACT, "prompt": "no place"}])
        self.assertEqual((broken.code, broken.file), ("input", "requests"))
        self.assertIn("prompt", str(broken))
        self.assertIn('on_broken="skip"', str(self.refused(self.edit, [FACT, {"prompt": "x"}])))

        two = [FACT, {**FACT, "target_new": "piano"}]
        conflict = self.refused(self.edit, two)
        self.assertEqual(conflict.code, "conflict")
        self.assertIn('on_conflict="last"', conflict.remedy)

        lacking = self.refused(self.edit, stats=None)
        self.assertIn("stats=…", lacking.remedy)
        self.assertIn("incise.stats(…)", str(lacking))
        nowhere = self.refused(incise.open, self.folder / "nowhere")
        self.assertEqual(nowhere.file, str(self.folder / "nowhere"))
        self.assertIn("memit", str(self.refused(self.edit, method="mammit")))
        self.assertIn("method=…", self.refused(self.editor.edit, FACT).remedy)
        self.assertEqual(self.refused(incise.undo, self.model).code, "refused")
        refused = self.refused(self.edit, on_broken="maybe")
        self.assertEqual((refused.code, refused.field), ("input", "on_broken"))
        self.assertIn("chat=True", self.refused(self.edit, system="x").remedy)
        cold = self.refused(self.editor.generate, PROMPT, top_k=3)
        self.assertIn("temperature=1 or top_k=0", cold.remedy)
        self.assertEqual(cold.args[0], str(cold))

        for wrong in ({"max_tokens": -1}, {"max_tokens": "x"}, {"top_k": -1}):
            error = self.refused(self.editor.generate, PROMPT, **wrong)
            self.assertEqual((error.code, error.field), ("refused", *wrong))
        wrong = self.refused(incise.stats, self.editor, "x", layers=[-1], output=self.folder / "s")
        self.assertEqual((wrong.code, wrong.field), ("refused", "layers"))
        self.assertEqual(self.refused(self.edit().into, "x").code, "module")

        unknown = self.refused(self.edit, v_lrr=0.5)
        self.assertEqual(unknown.field, "v_lrr")
        self.assertIn("v_lr,", unknown.remedy)
        for name in ("v_lr", "seed"):
            error = self.refused(self.edit, **{name: float("inf")})
            self.assertEqual((error.field, error.remedy), (name, "give a number that is finite"))
        for name, value in {"rounds": 0, "chat": "yes", "sequential": -1}.items():
            error = self.refused(self.edit, **{name: value})
            self.assertEqual((error.code, error.field), ("input", name))
        error = self.refused(self.editor.generate, PROMPT, chat="yes")
        self.assertEqual((error.code, error.field), ("input", "chat"))
        self.assertIn("chat=True", self.refused(self.editor.generate, PROMPT, system="x").remedy)
        inside = self.refused(self.edit().lora, self.model / "adapter")
        self.assertIn("inside what the command reads", str(inside))
        self.assertIn("elsewhere", self.refused(self.edit().apply, self.model / "edited").remedy)

    def test_settings_say_what_helps_as_keywords(self):
        said = [(True, "v_lr", "0.1"), (True, "L2", None), (False, "device", "cpu")]
        said += [(False, "chat", "false"), (False, "with", None), (False, "shard", "0/4")]
        said += [(False, "template_var", "enable_thinking=false"), (False, "layers", "3-8")]
        told = 'v_lr=0.1 or L2=… or device="cpu" or chat=False or memories=… or shard=(0, 4) or '
        told += 'template_vars={"enable_thinking": False} or layers="3-8"'
        self.assertEqual(keywords(said, None), f" ({told})")
        self.assertEqual(keywords([], "doctor"), " (`incise doctor`)")
        self.assertEqual(keywords([], "train"), " (`incise train`)")
        self.assertEqual(keywords([], "stats"), " (incise.stats(…))")
        self.assertEqual(keywords([], None), "")

    def test_options_and_hyperparameters_have_other_names(self):
        doors = (incise.Editor.edit, incise.Editor.tune, incise.Editor.evaluate)
        options = {name for door in doors for name in inspect.signature(door).parameters}
        self.assertFalse(options & _HYPERPARAMETERS)
        self.assertFalse(set(EASYEDIT) & (_HYPERPARAMETERS | options))
        self.assertIn("v_lr", incise.METHODS["memit"])

    def test_hyperparameters_go_over_those_of_files(self):
        file = json.loads((self.model / "hparams.json").read_text())
        edit = self.edit(hparams=file, v_lr=0.25, layers=(1,), mom2_adjustment=False, stats=None)
        self.assertEqual(edit.hyperparameters["v_lr"], 0.25)
        self.assertEqual([change.layer for change in edit.changes], [1])
        self.assertEqual(edit.hyperparameters_from["v_lr"], "set")

    def test_warnings_are_python_s_and_point_at_the_call(self):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            edit = self.edit([FACT, FACT])
        [warning] = [w for w in caught if "ask again for the same" in str(w.message)]
        self.assertIs(warning.category, incise.EngineWarning)
        self.assertEqual(warning.filename, __file__)
        self.assertEqual(len(edit.superseded), 1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with self.assertRaises(incise.EngineWarning):
                self.edit([FACT, FACT])

    def bars(self, heard):
        """Puts a tqdm in place whose bars call ``heard`` with a stage and how far it is."""

        class Bar:
            def __init__(self, total, desc, leave):
                self.total, self.n, self.desc = total, 0, desc
                heard("opened", 0)

            def update(self, n):
                self.n += n
                heard(self.desc, self.n)

            def set_postfix_str(self, words, refresh):
                pass

            def close(self):
                heard("closed", 0)

        module = types.ModuleType("tqdm.auto")
        module.tqdm = Bar
        sys.modules.update({"tqdm": types.ModuleType("tqdm"), "tqdm.auto": module})
        self.addCleanup(lambda: [sys.modules.pop(name) for name in ("tqdm", "tqdm.auto")])

    def test_bars_are_shown_where_tqdm_is(self):
        told = []
        self.bars(lambda stage, done: told.append(stage))
        self.edit(progress=True)
        self.assertIn("opened", told)
        self.assertEqual(told.count("opened"), told.count("closed"))
        self.assertEqual(told[-1], "closed")
        told.clear()
        self.edit()
        self.assertEqual(told, [])

    def test_ctrl_c_stops_the_work_and_the_same_call_goes_on(self):
        facts = json.loads((self.model / "edits.json").read_text())[:80]
        cache = self.folder / "cache"
        ticks, ended, found = [], threading.Event(), []

        def heard(stage, done):
            if stage == "fact" and done > 0 and not found:
                found.append(done)
                _thread.interrupt_main()

        def count():
            while not ended.wait(0.01):
                ticks.append(1)

        def many():
            return self.edit(
                facts, method="memit", mom2_update_weight=10, memory=1, cache=cache, progress=True
            )

        self.bars(heard)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background job
        counter = threading.Thread(target=count)
        counter.start()
        try:
            with self.assertRaises(KeyboardInterrupt) as caught:
                many()
        finally:
            ended.set()
            counter.join()
        self.assertIn("run the same again", str(caught.exception))
        self.assertGreater(len(ticks), 2, "other threads run meanwhile")
        with self.assertLogs("incise", "INFO") as log:
            edit = many()
        self.assertIn("found before", " ".join(log.output))
        self.assertEqual(len(edit.facts), len(facts))

    def test_logits_are_of_every_token(self):
        tokens, vocabulary, data = self.editor._engine.logits(
            PROMPT, {"memories": [], "patches": []}, Listener()
        )
        self.assertEqual(tokens, self.editor.tokens(PROMPT))
        last = memoryview(data).cast("f")[-vocabulary:].tolist()
        self.assertEqual(len(data), 4 * vocabulary * len(tokens))
        self.assertEqual([last.index(max(last))], self.editor.tokens(" trumpet"))

    def test_settings_are_tuned_into_a_file(self):
        records = self.folder / "records.json"
        records.write_text(json.dumps(json.loads((self.model / "edits.json").read_text())[:30]))
        output = self.folder / "found.json"
        fixed = {"num_steps": 4, "layers": [0], "lr": 1e-3}
        tuned = self.editor.tune(records, method="ft-m", facts=4, output=output, **fixed)
        self.assertEqual(tuned["hyperparameters"], json.loads(output.read_text()))
        self.assertEqual(tuned["hyperparameters"]["num_steps"], 4)
        self.assertTrue((self.folder / "found.json.tune/table.json").exists())

    def test_records_are_edited_and_measured(self):
        records, output = self.folder / "records.json", self.folder / "results"
        records.write_text(json.dumps(json.loads((self.model / "edits.json").read_text())[:2]))
        measure = {"output": output, "metrics": "counterfact"}
        summary = self.editor.evaluate(records, **measure, **self.settings)
        self.assertEqual((summary["cases"], summary["mode"]), (2, "single"))
        success = summary["metrics"]["counterfact.es"]
        self.assertGreater(success["mean"], success["before"])
        for name in ("results.jsonl", "summary.json", "report.html"):
            self.assertTrue((output / name).exists(), name)
        session = json.loads((output / "sessions.jsonl").read_text())
        self.assertGreater(sum(stage["seconds"] for stage in session["stages"]), 0)
        again = self.editor.evaluate(records, **measure, **self.settings)
        self.assertEqual(again, summary)
        error = self.refused(self.editor.evaluate, records, mode="batch", **measure)
        self.assertEqual((error.code, error.file), ("input", str(output / "run.json")))
        elsewhere = {"output": self.folder / "other"}
        error = self.refused(self.editor.evaluate, records, mode="at once", **elsewhere)
        self.assertIn("mode: no mode is called at once", str(error))
        error = self.refused(self.editor.evaluate, records, metrics="f1", **elsewhere)
        self.assertIn("metrics=…", error.remedy)
        error = self.refused(self.editor.evaluate, **elsewhere)
        self.assertIn("nothing to measure", str(error))
        error = self.refused(self.editor.evaluate, records, limit=-1, **elsewhere)
        self.assertEqual(error.field, "limit")
        error = self.refused(self.editor.evaluate, records, limit=0, **elsewhere)
        self.assertIn("limit=…", error.remedy)
        error = self.refused(self.editor.evaluate, records, output=records)
        self.assertIn("name a folder", error.remedy)
        error = self.refused(self.editor.evaluate, records, v_lr=0.5, **elsewhere)
        self.assertIn("method=…", error.remedy)

    def test_states_that_carry_a_fact_are_traced(self):
        asked = {"samples": 2, "window": 2, "noise": 0.5}
        found = self.editor.trace(PROMPT, "Louis Armstrong", **asked, output=self.folder / "t")
        self.assertEqual(found["answer"]["text"], " trumpet")
        self.assertEqual(len(found["ie"]["mlp"]), len(self.editor.tokens(PROMPT)))
        self.assertEqual(found, json.loads((self.folder / "t/trace.json").read_text()))
        self.assertTrue((self.folder / "t/hidden.svg").exists())
        known = self.model / "edits.json"
        average = self.editor.trace(known=known, limit=2, **asked)
        self.assertEqual(average["facts"] + average["skipped"] + average["refused"], 2)
        self.assertEqual(self.refused(self.editor.trace, known=known, samples=10**9).field, "samples")
        error = self.refused(self.editor.trace, PROMPT)
        self.assertIn("known=…", error.remedy)

    def test_threads_share_an_editor(self):
        changed = []
        threads = [
            threading.Thread(target=lambda: changed.append(self.edit().tensors()[0].data))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(changed, changed[:1] * 3)

    def test_statistics_are_collected(self):
        corpus, output = self.model / "corpus.txt", self.folder / "stats"
        made = incise.stats(self.editor, corpus, layers=[0], output=output, max_tokens=1000)
        self.assertEqual(made, output)
        self.assertEqual([file.name for file in output.iterdir()], ["layer-0.safetensors"])
        both = {"layers": 0, "output": output, "device": "cpu"}
        self.assertEqual(self.refused(incise.stats, self.editor, corpus, **both).field, "device")
        error = self.refused(incise.stats, self.model, [corpus], layers=99, output=output)
        self.assertIn("no layer 99", str(error))
        self.assertIn("layers=…", error.remedy)

    def test_notebooks_show_an_edit_escaped(self):
        edit = self.edit({**FACT, "subject": "<Louis & co>"})
        html = edit._repr_html_()
        self.assertIn("&lt;Louis &amp; co&gt; played the", html)
        self.assertIn("‖Δ‖/‖W‖", html)
        self.assertNotIn("<Louis", html)


if __name__ == "__main__":
    passed = unittest.main(exit=False).result.wasSuccessful()
    late = [name for name in ("numpy", "torch") if name in sys.modules]
    sys.exit(f"imported: {', '.join(late)}" if late else int(not passed))
