"""The same study gives the same table, to the bit, for any number of threads, processes and shards."""

import copy
import json

import numpy as np
import pytest
import yaml
from conftest import ROOT, snakemake
from safetensors.numpy import load_file
from tinyrun import configured, run, tables, workspace


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The study, run by one process with one thread."""
    folder = workspace(tmp_path_factory.mktemp("bit") / "work")
    run(folder, configured(folder))
    return folder


def weights(folder):
    return load_file(folder / "results/mine/models/mine/seed1/model.safetensors")


@pytest.mark.slow
def test_a_second_run_gives_the_same_bytes(first, tmp_path):
    folder = workspace(tmp_path / "again")
    run(folder, configured(folder))
    assert tables(folder) == tables(first)
    for path in sorted((first / "results").rglob("*.*")):
        if path.is_file() and not {"benchmarks", "logs"} & {*path.parts}:
            assert (folder / path.relative_to(first)).read_bytes() == path.read_bytes(), path


@pytest.mark.slow
def test_two_threads_or_processes_give_the_same_table(first, tmp_path):
    folder = workspace(tmp_path / "two")
    run(folder, configured(folder), threads=2)
    for name, array in weights(first).items():
        np.testing.assert_array_equal(weights(folder)[name], array)
    assert tables(folder) == tables(first)


@pytest.mark.slow
@pytest.mark.parametrize("shards", [2, 5])
def test_any_number_of_shards_gives_the_same_table(first, shards):
    alone = tables(first)
    run(first, configured(first, shards=shards))
    assert list(first.glob(f"results/mine/neighbors/**/first{shards}of{shards}"))
    sharded = tables(first)
    run(first, configured(first))
    assert tables(first) == alone
    rows = [json.loads(found["experiments/table1.json"])["rows"] for found in (alone, sharded)]
    assert [row["datastore"]["of"] for row in rows[1] if row["datastore"]] == [shards, shards]
    for row in (*rows[0], *rows[1]):
        for key in ("shards", "of"):
            (row["datastore"] or {}).pop(key, None)
    assert rows[0] == rows[1]
    for end in ("md", "tex", "csv"):
        assert sharded[f"tables/table1.{end}"] == alone[f"tables/table1.{end}"]


@pytest.mark.slow
def test_the_smoke_studys_tables_are_the_same_for_any_number_of_shards(smoke_config, tmp_path):
    path, sheet, found = tmp_path / "study.yaml", tmp_path / "sheet.yaml", []
    rows = yaml.safe_load((ROOT / "config/experiments/paper.yaml").read_text())
    del rows["figure2"]  # its datastores are fractions of the shards
    sheet.write_text(yaml.safe_dump(rows))
    for shards in (1, 2, 5):
        config = copy.deepcopy(smoke_config) | {"results": str(tmp_path), "experiments": str(sheet)}
        config["datastores"] = {name: {"shards": shards} for name in config["datastores"]}
        path.write_text(yaml.safe_dump(config))
        targets = ("table1", "table2", "table3", "table4", "precision", "metric", "temperature")
        made = snakemake(*targets, "--cores", 2, "--nolock", "--configfile", path)
        assert made.returncode == 0, made.stderr[-3000:]
        assert list(tmp_path.glob(f"smoke/keys/**/shard0of{shards}"))
        found.append({table.name: table.read_text() for table in (tmp_path / "smoke/tables").glob("*.csv")})
    assert len(found[0]) == len(targets) and found[0] == found[1] == found[2]
