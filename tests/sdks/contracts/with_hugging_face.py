"""Hugging Face's client of text-embeddings-inference."""

from huggingface_hub import InferenceClient
from task import error_of, task, tell

work = task()
client = InferenceClient(f"{work.root}/embed", token=work.key)
tell(
    vectors=client.feature_extraction(work.texts, normalize=True).tolist(),
    query=client.feature_extraction(work.texts[0], prompt_name="query")[0].tolist(),
    error=error_of(lambda: client.feature_extraction(["x", ""])),
)
