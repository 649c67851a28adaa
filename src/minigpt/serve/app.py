"""The application behind the page: its addresses, and what they answer."""

import json
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import anyio
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.concurrency import iterate_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from minigpt.np.sampling import SamplingOptions
from minigpt.page import files
from minigpt.page.gradient import Element, array, gradient, nudge
from minigpt.page.handout import example
from minigpt.page.inside import attribution, inside
from minigpt.page.nodes import explanation
from minigpt.page.subject import Subject
from minigpt.page.traced import MAX_TOKENS, Question, Traced, Tracer
from minigpt.page.training import Training
from minigpt.page.updates import update
from minigpt.page.words import merges, pieces
from minigpt.report.theme import CHART_COLORS, PAGE_COLORS, color_variables
from minigpt.serve.fields import Fields
from minigpt.serve.guard import Guard
from minigpt.serve.writing import MAX_NEW_TOKENS, Story, write

VIEWS = ("write", "inside", "gradient", "training", "tokens")
MAX_STORIES = 4
"The number of stories that are written at the same time."
MAX_WAITING = 32
"The number of requests that wait for others."
SECONDS_TO_READ = 30
"The time after which a reader who does not accept more of a story is given up."
MAX_STEP = 1 << 53
Handler = Callable[[Request], Awaitable[Response]]


class Page:
    """Answers the requests of the page for one model."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.tracer = Tracer(subject)
        self.training = None if subject.trained is None else Training(subject.trained)
        self._computing, self._writing = anyio.CapacityLimiter(1), anyio.CapacityLimiter(MAX_STORIES)
        self._waiting = 0

    def routes(self) -> list[Route]:
        """Return the addresses. No part of a request is used as the name of a file."""
        computed: dict[str, Callable[[Fields], Any]] = {
            "inside": lambda f: inside(self.tracer, self.traced(f, gradients=False)),
            "attribution": self.attribution,
            "gradient": lambda f: gradient(self.traced(f)),
            "array": self.array,
            "nudge": self.nudge,
            "update": lambda f: update(self.tracer, self.traced(f), f.text("name")),
            "tokens": lambda f: pieces(self.subject.tokenizer, f.text("text")),
            "merges": lambda f: merges(
                self.subject.tokenizer, f.integer("start", 0, MAX_STEP, 0), f.integer("count", 1, 500, 100)
            ),
        }
        return [
            Route("/", lambda request: RedirectResponse("/write")),
            *(Route(f"/{view}", static("index.html")) for view in VIEWS),
            Route("/theme.css", lambda request: text(color_variables(PAGE_COLORS | CHART_COLORS), "text/css")),
            *(Route(f"/static/{name}", static(name)) for name in files.names()),
            Route("/api/model", self.answer(lambda fields: self.model())),
            Route("/api/training", self.answer(lambda fields: self.curves())),
            Route("/api/explain/{kind}", self.explain),
            *(Route(f"/api/{name}", self.answer(function), methods=["POST"]) for name, function in computed.items()),
            Route("/api/write", self.write, methods=["POST"]),
        ]

    def model(self) -> dict[str, Any]:
        """Return what the page needs to know of the model."""
        subject = self.subject
        steps = subject.steps
        model = subject.model(steps[-1] if steps else None)
        return {
            "name": subject.name,
            "parameters": model.num_parameters(),
            "layers": model.config.n_layers,
            "heads": model.config.n_heads,
            "vocabulary": subject.tokenizer.vocab_size,
            "limit": self.tracer.limit,
            "steps": steps,
            "example": example(subject, self.tracer.limit),
            "trained": self.training is not None,
            "post_norm": model.config.norm_placement != "pre",
        }

    def curves(self) -> dict[str, Any]:
        """Return the curves of the training."""
        if self.training is None:
            raise ValueError(f"{self.subject.name} does not belong to a run")
        return self.training.read()

    def traced(self, f: Fields, gradients: bool = True) -> Traced:
        """Return the trace that a request asks for."""
        step, target = f.optional_integer("step", 0, MAX_STEP), f.optional_integer("target", 1, MAX_TOKENS)
        return self.tracer(Question(f.text("text"), step, target, f.names("off", 1000)), gradients)

    def attribution(self, f: Fields) -> dict[str, Any]:
        """Return the shares of the parts of the model in a logit."""
        position, token = f.integer("position", 0, MAX_TOKENS), f.optional_integer("token", 0, MAX_STEP)
        return attribution(self.tracer, self.traced(f, gradients=False), position, token)

    def array(self, f: Fields) -> dict[str, Any]:
        """Return a part of an array."""
        t = self.traced(f).trace
        return array(t, f.text("name"), f.integer("index", 0, MAX_STEP, 0), f.span("rows"), f.span("columns"))

    def nudge(self, f: Fields) -> dict[str, Any]:
        """Return the change of the loss if one number is changed."""
        element = Element(f.text("name"), f.integers("index", 3))
        return nudge(self.tracer, self.traced(f), element, f.number("amount", 0.001))

    def answer(self, function: Callable[[Fields], Any]) -> Handler:
        """Return a handler that computes an answer in a thread, one request after the other."""

        async def handle(request: Request) -> Response:
            try:
                fields = Fields.parse(await request.body()) if request.method == "POST" else Fields({})
                return await self.compute(request, lambda: answered(function(fields)))
            except ClientDisconnect:
                return failure("the request is not complete", 400)
            except ValueError as error:
                return failure(str(error), 400)

        return handle

    async def compute(self, request: Request, function: Callable[[], Response]) -> Response:
        """Return a response that a thread computes once those before it have been computed, unless its reader has gone."""
        if self._waiting >= MAX_WAITING:
            return failure("the server is busy", 503)
        self._waiting += 1
        try:
            async with self._computing:
                if await request.is_disconnected():
                    return failure("the reader has gone", 400)
                return await run_sync(function)
        except ValueError as error:
            return failure(str(error), 400)
        except (ArithmeticError, OSError, MemoryError) as error:
            return failure(str(error) or "there is not enough memory for this", 500)
        finally:
            self._waiting -= 1

    async def explain(self, request: Request) -> Response:
        """Answer with the formulas and the code of a kind of node."""
        try:
            return JSONResponse(explanation(request.path_params["kind"]))
        except ValueError as error:
            return failure(str(error), 404)

    async def write(self, request: Request) -> Response:
        """Answer with a story, one line of JSON for each token."""
        place = object()
        try:
            story = story_of(Fields.parse(await request.body()))
            self._writing.acquire_on_behalf_of_nowait(place)
        except ClientDisconnect:
            return failure("the request is not complete", 400)
        except ValueError as error:
            return failure(str(error), 400)
        except anyio.WouldBlock:
            return failure(f"{MAX_STORIES} stories are being written already", 503)

        def leave() -> None:
            self._writing.release_on_behalf_of(place)

        response = await self.compute(request, lambda: Lines(started(write(self.tracer, story)), leave))
        if not isinstance(response, Lines):
            leave()
        return response


class Lines(StreamingResponse):
    """Values as lines of JSON, each of which is computed when the one before it has been sent.

    A reader who accepts nothing for `SECONDS_TO_READ` is given up. `done` is called at the end in any case.
    """

    def __init__(self, values: Iterator[dict[str, Any]], done: Callable[[], None]) -> None:
        lines = (encoded_json(value) + b"\n" for value in values)
        super().__init__(iterate_in_threadpool(lines), media_type="application/x-ndjson", headers={"Cache-Control": "no-store"})
        self._done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the lines."""

        async def send_in_time(message: Any) -> None:
            with anyio.fail_after(SECONDS_TO_READ):
                await send(message)

        try:
            with suppress(TimeoutError):
                await super().__call__(scope, receive, send_in_time)
        finally:
            self._done()


def application(subject: Subject, hosts: Iterable[str], token: str | None = None) -> ASGIApp:
    """Return the application. `hosts` are the names of this server in the Host header; with none, any name is accepted."""
    return Guard(Starlette(routes=Page(subject).routes()), hosts, token)


def story_of(f: Fields) -> Story:
    """Return the story that a request asks for."""
    sampling: SamplingOptions = {
        "temperature": f.number("temperature", 0.8),
        "top_k": f.integer("top_k", 0, MAX_STEP, 40) or None,
        "top_p": None if (top_p := f.number("top_p", 1)) == 1 else top_p,
        "min_p": None if (min_p := f.number("min_p", 0)) == 0 else min_p,
    }
    return Story(
        f.text("prompt"),
        f.integers("ids", 5000),
        f.optional_integer("step", 0, MAX_STEP),
        f.integer("seed", 0, MAX_STEP, 0),
        sampling,
        f.integer("max_new_tokens", 1, MAX_NEW_TOKENS, 200),
        f.integer("skip", 0, MAX_NEW_TOKENS, 0),
    )


def started(lines: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Return an iterator whose first element has been computed, so that an invalid request raises here."""
    first = next(lines)

    def all_lines() -> Iterator[dict[str, Any]]:
        yield first
        yield from lines

    return all_lines()


def encoded_json(value: Any) -> bytes:
    """Return a value as JSON. Raises `ValueError` for a number that is not finite, which JSON does not have."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def answered(value: Any) -> Response:
    """Return the answer to a question."""
    return Response(encoded_json(value), media_type="application/json", headers={"Cache-Control": "no-store"})


def failure(message: str, status: int) -> Response:
    """Return the answer to a request that cannot be fulfilled."""
    return JSONResponse({"error": message}, status)


def static(name: str) -> Callable[[Request], Response]:
    """Return a handler that answers with a file of the page."""
    content = files.read(name)
    return lambda request: text(content, files.TYPES[name.rpartition(".")[2]])


def text(content: str, media_type: str) -> Response:
    """Return the answer to a request for a file of the page. The browser asks each time whether it has changed."""
    return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})
