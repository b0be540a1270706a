"""The API in one process: what it answers, whom, and how it refuses."""

import asyncio
import json
import math

import pytest
from starlette.testclient import TestClient

import knn_ner_jax as kn
from knn_ner_jax.data.tag_schemes import Sentence
from knn_ner_jax.knn.combine import labels_by_vote
from knn_ner_jax.knn.examples import DatastoreText
from knn_ner_jax.knn.memory import History, Memory
from knn_ner_jax.serve.app import Access, Limits, Server
from knn_ner_jax.serve.batcher import Batcher, shapes_for
from knn_ner_jax.serve.metrics import Metrics


def post(served, path, **body):
    return served.client.post(path, json=body)


def refusal(response, status: int) -> str:
    assert response.status_code == status, response.text
    assert response.json().keys() == {"error"}
    assert "Traceback" not in response.text
    return response.json()["error"]


def strip(value):
    """Tuples as JSON has them."""
    return json.loads(json.dumps(value))


def same(one, other) -> bool:
    """Equal but for probabilities and similarities, which another shape of batch rounds otherwise."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return math.isclose(one, other, abs_tol=1e-4) if isinstance(one, float) else one == other


def test_entities_are_those_of_the_tagger_in_whatever_form_a_text_is_given(served, evaluated):
    texts = [" ".join(served.sentences[0]), served.sentences[1], {"text": "", "id": 7}]
    expected = strip([each.to_dict() for each in kn.load(served.run).tag(texts, 2)])
    assert [each["entities"] != [] for each in expected] == [True, True, False]
    answer = post(served, "/tag", texts=texts, neighbours=2).json()
    assert same(answer["sentences"], expected)
    assert same(post(served, "/tag", tokens=texts[1], neighbours=2).json()["sentences"], expected[1:2])
    assert same(post(served, "/tag", text=texts[0], neighbours=2).json()["sentences"], expected[:1])


def test_opinions_are_the_largest_probabilities_of_tagger_and_neighbours_alone(served, evaluated):
    tagger = kn.load(served.run)
    words = served.sentences[0]
    split = tagger.encode([Sentence(tuple(words), ("O",) * len(words), 0)])
    mixed = labels_by_vote(tagger.retrieve_for(split, tagger.knn_params), tagger.knn_params)
    [sentence] = post(served, "/tag", tokens=words, opinions=True).json()["sentences"]
    for judge, probabilities in {"tagger": mixed.p_ner, "knn": mixed.p_knn, "mix": mixed.p}.items():
        names = [tagger.label_set.names[label] for label in probabilities.argmax(axis=1)]
        assert [each[judge]["ner_tag"] for each in sentence["opinions"]] == names
        assert same([each[judge]["p"] for each in sentence["opinions"]], probabilities.max(axis=1).tolist())
    assert [each["mix"]["ner_tag"] for each in sentence["opinions"]] == sentence["ner_tags"]
    assert [each["word"] for each in sentence["opinions"]] == words


def test_neighbours_and_threshold_cut_what_is_answered(served):
    def entities(**options):
        return post(served, "/tag", tokens=served.sentences[0], **options).json()["sentences"][0]["entities"]

    every = entities(neighbours=4)
    assert every
    assert {len(each["neighbours"]) for each in every} == {4}
    assert {len(each["neighbours"]) for each in entities()} == {0}
    best = max(each["score"] for each in every)
    assert [each["score"] for each in entities(threshold=best)] == [best]
    group = every[0]["entity_group"]
    assert {each["entity_group"] for each in entities(threshold={group: 1.0})} == {
        each["entity_group"] for each in every if each["entity_group"] != group or each["score"] >= 1.0
    }


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "expected one of text, tokens and texts"),
        ({"text": "a", "tokens": ["a"]}, "expected one of text, tokens and texts"),
        ({"text": 3}, "text: expected text, got 3"),
        ({"text": "a", "neighbors": 1}, "neighbors: no such field"),
        ({"text": "a", "neighbours": 5}, "neighbours: expected 0 to 4, got 5"),
        ({"text": "a", "neighbours": True}, "neighbours: expected an integer"),
        ({"text": "a", "threshold": 1.5}, "threshold: expected a number from 0 to 1"),
        ({"text": "a", "threshold": {"PER": "high"}}, "threshold: expected a number for each type"),
        ({"text": "a", "threshold": {"NONE": 0.5}}, "threshold: expected a type of this tagger"),
        ({"tokens": ["a", 1]}, "text 1: expected words that are text"),
        ({"texts": ["a"] * 9}, "texts: expected at most 8"),
        ({"texts": ["a", {"id": 1}]}, "text 2: expected a text"),
        ({"texts": [{"text": "a", "id": "\ud83d"}]}, "expected characters of Unicode"),
        ([], "body: expected an object, got list"),
    ],
)
def test_what_cannot_be_tagged_is_named(served, body, said):
    content = json.dumps(body)
    response = served.client.post("/tag", content=content, headers={"Content-Type": "application/json"})
    assert said in refusal(response, 422)


def test_requests_that_are_no_json_or_too_large_are_refused(served):
    as_json = {"Content-Type": "application/json"}
    for content in (b"{", b"\xff\xfe", b"NaN", b'{"texts": [{"text": "a", "x": 1e999}]}', b"[" * 4000):
        assert "expected JSON" in refusal(served.client.post("/tag", content=content, headers=as_json), 400)
    form = {"Content-Type": "text/plain"}
    assert "expected application/json" in refusal(served.client.post("/tag", content=b"{}", headers=form), 415)
    assert "4096 bytes" in refusal(post(served, "/tag", text="a" * 5000), 413)
    parts = (b" " * 1000 for _ in range(9))  # without a length
    assert "4096 bytes" in refusal(served.client.post("/tag", content=parts, headers=as_json), 413)
    assert "300 words" in refusal(post(served, "/tag", text="a " * 301), 413)
    refusal(served.client.get("/tag"), 405)
    refusal(served.client.get("/nothing"), 404)


def test_text_of_any_script_and_length_is_tagged(served):
    texts = [
        "",
        " \t",
        "مرحبا بالعالم",
        "東京は日本の首都です",
        "e\u0301 \u200d 👩‍👩‍👧",
        "x" * 900,
        "\u202eabc\u0000",
        "a " * 150,
    ]
    for text, sentence in zip(texts, post(served, "/tag", texts=texts).json()["sentences"], strict=True):
        assert sentence["text"] == text
        assert len(sentence["tokens"]) == len(sentence["ner_tags"])
        assert all(text[each["start"] : each["end"]] == each["word"] for each in sentence["entities"])


def test_nobody_without_the_token_gets_in(served):
    application = served.server.application()
    client = TestClient(application, "http://127.0.0.1:8000")
    for path in ("/metrics", "/memory/log"):
        assert "Bearer" in refusal(client.get(path), 401)
    for token in ("Bearer wrong", "Basic a-token-of-the-tests", "Bearer ", "Bearer é"):
        assert "Bearer" in refusal(client.post("/tag", json={"text": "a"}, headers={"Authorization": token.encode()}), 401)
    assert client.get("/").status_code == client.get("/health").status_code == 200


def test_pages_of_other_sites_are_refused(served):
    assert "Host" in refusal(served.client.get("/health", headers={"Host": "evil.example:8000"}), 403)
    assert "Origin" in refusal(
        served.client.post("/tag", json={"text": "a"}, headers={"Origin": "http://evil.example"}), 403
    )
    assert "Origin" in refusal(served.client.post("/tag", json={"text": "a"}, headers={"Origin": "null"}), 403)
    same_site = served.client.post("/tag", json={"text": "a"}, headers={"Origin": "http://127.0.0.1:8000"})
    assert same_site.status_code == 200
    assert "access-control-allow-origin" not in same_site.headers
    policy = served.client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_what_is_taught_is_the_nearest_neighbour_at_once_and_can_be_taken_back(served):
    tokens, tags = ["Zyx", "Quuxley", "won"], ["B-PER", "I-PER", "O"]

    def ask():
        answer = post(served, "/tag", tokens=tokens, neighbours=1, opinions=True).json()
        return answer["version"], answer["sentences"][0]

    version, before = ask()
    added = post(served, "/memory/add", sentences=[{"tokens": tokens, "ner_tags": tags}], source="tests", who="Aino")
    edit = added.json()
    assert (edit["version"], edit["action"], edit["rows"], edit["who"]) == (version + 1, "add", 3, "Aino")
    version, taught = ask()
    assert version == edit["version"]
    for word, opinion in enumerate(taught["opinions"]):
        [near] = opinion["neighbours"]
        assert (near["sentence_id"], near["word_id"], near["label"]) == (edit["first_sentence"], word, tags[word])
    post(served, "/memory/relabel", words=[{"sentence_id": edit["first_sentence"], "word_id": 0, "ner_tag": "B-NEW"}])
    assert ask()[1]["opinions"][0]["neighbours"][0]["label"] == "B-NEW"
    message = refusal(post(served, "/memory/rollback", version=version - 1, seen=version), 409)
    assert f"expected {version + 1}" in message
    assert post(served, "/memory/rollback", version=version, seen=version + 1).json()["target"] == version
    assert post(served, "/memory/remove", sentence_ids=[edit["first_sentence"]]).status_code == 200
    version, after = ask()
    assert after == before
    log = served.client.get("/memory/log").json()["edits"]
    assert [each["action"] for each in log[-4:]] == ["add", "relabel", "rollback", "remove"]
    assert len(log) == version


def test_a_rollback_that_another_process_overtakes_is_refused(served, monkeypatch):
    newest, commit = served.batcher.version, History.commit

    def overtaken(*arguments):  # after the server has looked, before it holds the lock
        monkeypatch.setattr(History, "commit", commit)
        Memory(served.run / "datastore").rollback(newest)
        return commit(*arguments)

    monkeypatch.setattr(History, "commit", overtaken)
    message = refusal(post(served, "/memory/rollback", version=0, seen=newest), 409)
    assert f"seen: expected {newest + 1}" in message
    assert "version: expected 0 to" in refusal(post(served, "/memory/rollback", version=10**6, seen=newest + 1), 422)
    assert post(served, "/tag", text="a").json()["version"] == newest + 1


@pytest.mark.parametrize("opinions", [False, True])
def test_no_more_neighbours_are_looked_up_than_are_wanted(served, monkeypatch, opinions):
    counts, neighbours = [], DatastoreText.neighbours

    def counted(text, cache, word_index, count):
        counts.append(count)
        return neighbours(text, cache, word_index, count)

    monkeypatch.setattr(DatastoreText, "neighbours", counted)
    before = served.metrics.compilations._value.get()
    for wanted in range(5):  # the most that it gives is 4
        counts.clear()
        answer = post(served, "/tag", tokens=served.sentences[0], opinions=opinions, neighbours=wanted)
        assert {len(each["neighbours"]) for each in answer.json()["sentences"][0]["entities"]} == {wanted}
        assert set(counts) == {wanted} - {0}
    assert served.metrics.compilations._value.get() == before


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("add", {}, "sentences: expected it"),
        ("add", {"sentences": []}, "add: expected sentences"),
        ("add", {"sentences": [["a"]]}, "sentence 1: expected an object"),
        ("add", {"sentences": [{"tokens": ["a"], "ner_tags": ["X"]}]}, "expected O, B-TYPE or I-TYPE"),
        ("add", {"sentences": [{"tokens": "a", "ner_tags": ["O"]}]}, "sentence 1: tokens: expected a list"),
        ("add", {"sentences": [{"tokens": ["a"], "ner_tags": {"O": 1}}]}, "sentence 1: ner_tags: expected a list"),
        ("relabel", {"words": [{"sentence_id": 10**6, "word_id": 0, "ner_tag": "O"}]}, "expected a word that is stored"),
        ("remove", {"sentence_ids": ["a"]}, "sentence_ids: expected integers"),
        ("remove", {"source": "nobody"}, "remove: expected a source"),
        ("rollback", {"version": 0}, "seen: expected it"),
    ],
)
def test_edits_that_cannot_be_made_change_nothing(served, path, body, said):
    before = served.client.get("/memory/log").json()
    assert said in refusal(post(served, f"/memory/{path}", **body), 422)
    assert served.client.get("/memory/log").json() == before


def test_editing_is_off_unless_it_is_turned_on(served):
    server = Server(served.batcher, served.metrics, Access(), Limits())
    client = TestClient(server.application(), "http://localhost:8000")
    assert "--edit" in refusal(client.post("/memory/add", json={}), 403)
    assert client.get("/memory/log").status_code == client.post("/tag", json={"text": "a"}).status_code == 200


def test_edits_and_questions_at_once_are_all_answered_and_nothing_is_compiled(served):
    before = served.metrics.compilations._value.get()
    newest = served.batcher.version

    async def go():
        from knn_ner_jax.data.texts import Document

        documents = [[Document.of("a " * length, "")] for length in (1, 3, 40, 200, 17)]

        async def teach(number):
            sentence = ([f"Word{number}", "x"], ["B-PER", "O"])
            return await served.batcher.edit(lambda memory: memory.add([sentence], f"client {number}"))

        jobs = [served.batcher.tag(given, number % 2 == 0) for number, given in enumerate(documents)]
        return await asyncio.gather(*jobs[:3], *(teach(number) for number in range(3)), *jobs[3:])

    answers = asyncio.run(go())
    versions = sorted(answer.version for answer in answers[3:6])
    assert versions == [newest + 1, newest + 2, newest + 3]
    assert all(newest <= answer.version <= newest + 3 for answer in (*answers[:3], *answers[6:]))
    assert post(served, "/tag", text="a").json()["version"] == newest + 3  # all edits have been acknowledged
    assert served.metrics.compilations._value.get() == before


def test_more_requests_than_may_wait_are_told_to_come_again(evaluated, served):
    class Stuck(Batcher):
        def __init__(self):
            super().__init__(kn.load(served.run), 4, 1, served.metrics)

    async def go():
        stuck = Stuck()  # whose thread never starts
        client = Server(stuck, served.metrics, Access(), Limits(seconds=0.2, queue=1))
        import httpx2

        transport = httpx2.ASGITransport(client.application())
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost:8000") as asking:
            return await asyncio.gather(*(asking.post("/tag", json={"text": "a"}) for _ in range(3)))

    answers = asyncio.run(go())
    assert [answer.status_code for answer in answers] == [503] * 3
    assert {answer.headers["retry-after"] for answer in answers} == {"1"}
    assert ["at most 1" in answer.text for answer in answers].count(True) == 2
    assert ["within 0.2 s" in answer.text for answer in answers].count(True) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_health_says_that_the_thread_that_tags_has_ended(served, monkeypatch):
    metrics = Metrics()
    batcher = Batcher(kn.load(served.run), 4, 8, metrics)
    client = TestClient(Server(batcher, metrics, Access(), Limits(seconds=20.0)).application(), "http://localhost:8000")
    batcher.start()
    assert client.get("/health").json()["status"] == "ok"
    assert b"knn_ner_tags 1.0" in metrics.text()

    def fail(*_):
        raise ValueError("a mistake")

    monkeypatch.setattr(batcher, "_do", fail)
    waiting = batcher._put(edit=lambda memory: None)
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(waiting, 0.1))
    batcher._thread.join(20)
    for response in client.get("/health"), client.post("/tag", json={"text": "a"}):
        assert "the thread that tags and edits has ended; start the server anew" in refusal(response, 503)
    assert b"knn_ner_tags 0.0" in metrics.text()


def test_numbers_are_prometheus_text(served):
    from prometheus_client.parser import text_string_to_metric_families

    served.client.get("/health")
    families = {each.name: each for each in text_string_to_metric_families(served.client.get("/metrics").text)}
    answered = {(each.labels["path"], each.labels["status"]): each.value for each in families["knn_ner_requests"].samples}
    assert answered["/health", "200"] >= 1
    assert families["knn_ner_datastore_version"].samples[0].value == served.batcher.version
    assert "process_resident_memory_bytes" in families


def test_the_shapes_hold_every_window(served):
    tagger = served.batcher._tagger
    assert served.batcher.shapes == shapes_for(tagger.model.max_length, tagger.pad_to_multiple_of)
    assert max(shape.length for shape in served.batcher.shapes) >= tagger.model.max_length
