from workers import memory


def machine(folder, available=None):
    path = folder / "meminfo"
    path.write_text("MemTotal:       24000000 kB\n" + (f"MemAvailable:   {available} kB\n" if available else ""))
    return path


def container(folder, limit, used=0, files=0):
    group = folder / "cgroup"
    group.mkdir()
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon 5\ninactive_file {files}\n")
    return group


def test_the_machine_says_what_is_free_without_swapping(tmp_path):
    assert memory.available(machine(tmp_path, 2000), tmp_path / "none") == 2_048_000


def test_a_container_may_have_less_and_its_files_count_as_free(tmp_path):
    group = container(tmp_path, limit=1_000_000, used=700_000, files=200_000)
    assert memory.available(machine(tmp_path, 2000), group) == 500_000


def test_a_container_without_a_limit_has_what_the_machine_has(tmp_path):
    assert memory.available(machine(tmp_path, 2000), container(tmp_path, "max")) == 2_048_000


def test_where_nobody_tells_it_is_unknown(tmp_path):
    assert memory.available(tmp_path / "none", tmp_path / "none") is None
    assert memory.available(machine(tmp_path), tmp_path / "none") is None


def test_this_machine_tells():
    assert memory.available() > 0


def test_sizes_for_people():
    assert (memory.said(2.5e9), memory.said(23e6)) == ("2.5 GB", "23 MB")
