"""Qwen2.5-VL's processor where torchvision is not installed: images and text, no videos."""

from typing import Any


def qwen_processor_class() -> Any:
    """The stock processor, or one without its video processor, which is what needs torchvision.

    `transformers` infers the parts of a processor from the signature of `__init__`, and loads each of them.
    """
    from transformers import AutoProcessor
    from transformers import Qwen2_5_VLProcessor as Stock
    from transformers.processing_utils import ProcessorMixin
    from transformers.utils.import_utils import is_torchvision_available

    if is_torchvision_available():
        return AutoProcessor

    class Qwen2_5_VLProcessor(Stock):
        """Has the stock name, so that what it saves is read by the stock class."""

        def __init__(
            self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None, **_: Any
        ) -> None:
            self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
            self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
            self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    return Qwen2_5_VLProcessor
