from cri_proxy.settings import Settings, contradictions, schema


def test_the_defaults_are_settings_that_contradict_nothing():
    assert contradictions.of_settings(Settings()) == []


def test_an_endpoint_for_traces_that_nobody_sends_is_a_contradiction():
    settings = Settings(tracing=schema.TracingSettings(endpoint="http://localhost:4318"))

    assert "tracing.exporter" in contradictions.of_settings(settings)[0]


def test_the_proxy_cannot_listen_at_the_runtimes_own_socket():
    settings = Settings(serve=schema.ServeSettings(listen=schema.RuntimeSettings().endpoint))

    assert "runtime.endpoint" in contradictions.of_settings(settings)[0]


def test_caches_without_a_key_to_trust_are_a_contradiction():
    settings = Settings(store=schema.StoreSettings(public_keys=()))

    assert "store.public_keys" in contradictions.of_settings(settings)[0]


def test_the_low_mark_of_the_disk_is_below_the_high_one():
    settings = Settings(garbage=schema.GarbageSettings(high_percent=70, low_percent=70))

    assert "garbage.low_percent" in contradictions.of_settings(settings)[0]


def test_a_share_for_other_nodes_needs_a_store_of_the_proxys_own_and_a_port():
    nix = Settings(
        store=schema.StoreSettings(kind="nix"), peer=schema.PeerSettings(listen="0.0.0.0:9465")
    )
    any_port = Settings(peer=schema.PeerSettings(listen="0.0.0.0:0"))

    assert "store.kind" in contradictions.of_settings(nix)[0]
    assert "other nodes must know the port" in contradictions.of_settings(any_port)[0]
