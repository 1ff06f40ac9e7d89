from wordbrush.filenames import slug


def test_names_of_any_script_leave_room_for_endings():
    for text in ("😀a" * 60, "漢字" * 60, "𝒶" * 100, "a b" * 60):
        assert len(slug(text)) <= 80 and len(slug(text).encode()) <= 160
    assert slug("漢" * 60) == "漢" * 53 and slug("a" * 100) == "a" * 80
