"""What the service says about itself."""

import httpx

from tests.app.conftest import metric, post


class TestSystem:
    def test_health_ready_and_info(self, client: httpx.Client) -> None:
        assert client.get("/health").json() == {"status": "ok"}
        assert client.get("/ready").json() == {"status": "ready"}
        info = client.get("/info").json()
        assert info["default"] == "word"
        assert {model["name"] for model in info["models"]} == {"word", "char"}
        assert info["models"][0]["card"].startswith("#")
        assert info["refused"] == []
        assert info["limits"]["max_tokens"] == 4096

    def test_metrics_count_tokens(self, client: httpx.Client) -> None:
        before = metric(client, "carousel_generation_tokens_total")
        post(client, "/generate", max_tokens=7, ignore_eos=True)
        assert metric(client, "carousel_generation_tokens_total") == before + 7

    def test_every_route_is_documented_with_its_errors(self, client: httpx.Client) -> None:
        paths = client.get("/openapi.json").json()["paths"]
        for route in ("/generate", "/score", "/next"):
            operation = paths[route]["post"]
            assert "requestBody" in operation
            assert {"200", "400", "404", "422", "429"} <= set(operation["responses"])
        assert client.get("/docs").status_code == 200
