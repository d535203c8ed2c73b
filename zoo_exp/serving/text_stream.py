"""From token ids to text while they are generated: stop texts, and pieces of text that never have to be taken back."""

from collections.abc import Callable, Sequence


class TextStream:
    r"""The text of one response as it grows.

    The pieces of `push` and `finish` together are the text that a response without streaming has: up to the first stop
    text, without white space at both ends.

    Args:
        decode: text of token ids.
        stops: texts that end the response.

    Attributes:
        ids: the tokens so far.
        stopped: whether a stop text was generated.

    >>> stream = TextStream(lambda ids: "".join(map(chr, ids)), ["END"])
    >>> [stream.push([ord(c)]) for c in " yes E"], stream.push(list(b"ND, no")), stream.stopped, stream.text
    (['', 'y', 'e', 's', '', ''], '', True, 'yes')
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = ()) -> None:
        self.ids: list[int] = []
        self.stopped = False
        self._decode, self._stops, self._sent = decode, stops, ""

    @property
    def text(self) -> str:
        """The whole text so far."""
        return self._cut()[0]

    def push(self, ids: Sequence[int]) -> str:
        """Take new tokens; returns the text that they add and that is certain."""
        self.ids += ids
        text, self.stopped = self._cut()
        if not self.stopped:
            text = self._certain(text)
        return self._send(text)

    def hold(self, token: int) -> str:
        """Take a token without decoding it, where nobody reads the text before the end; returns no text."""
        self.ids.append(token)
        return ""

    def finish(self) -> str:
        """The text that was held back."""
        text = self.text
        # A tokenizer that joins words anew ("do n't") may change what was sent; what is longer follows here.
        new = text[len(self._sent) :]
        self._sent += new
        return new

    def _cut(self) -> tuple[str, bool]:
        """The text up to the first stop text, and whether there is one."""
        text = self._decode(self.ids)
        ends = [place for place in map(text.find, self._stops) if place >= 0]
        return text[: min(ends, default=len(text))].strip(), bool(ends)

    def _certain(self, text: str) -> str:
        """The text without an incomplete character and without what may be the beginning of a stop text."""
        held = 1 if text.endswith("\ufffd") else 0  # bytes of a character whose rest is in the next token
        for stop in self._stops:
            # White space at the end is cut already, so that the beginning of a stop text may lack its own.
            starts = {stop[:length].strip() for length in range(1, len(stop))}
            held = max([held, *(len(start) for start in starts if text.endswith(start))])
        return text[: len(text) - held].rstrip()

    def _send(self, text: str) -> str:
        new = text[len(self._sent) :] if text.startswith(self._sent) else ""
        self._sent += new
        return new
