"""Ask one question at five budgets: `python docs/examples/pruned_generate.py` (the packaged model, no download)."""

import zoo_exp
from zoo_exp.embedded.benchmarks import rows

loaded = zoo_exp.load_model("embedded")  # or "llava-hf/llava-1.5-7b-hf", or a folder
model, processor = loaded.model, loaded.processor

sample = next(row for row in rows("vqav2", limit=5))
turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": sample["question"]}]}
prompt = processor.apply_chat_template([turn], add_generation_prompt=True)
inputs = processor(images=sample["image"], text=prompt, return_tensors="pt")
print(f"{sample['question']} ({sample['multiple_choice_answer']})")

for selector, budget in [("full", None), ("zoo", 48), ("zoo", 16), ("fastv", 16), ("blind", None)]:
    with zoo_exp.pruned(loaded, selector, budget) as pruning:
        ids = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    answer = processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    print(f"{selector:8} layers see {pruning.layer_counts[0]} visual tokens: {answer}")
