from advx_jax.reports.console import table


def test_numbers_stand_to_the_right_and_words_to_the_left():
    rows = [("attack", 0.0188, "1,000"), ("no better than random", 0.5, "-"), ("x", 12.25, "7%")]
    assert table(("until", "ARA", "images"), rows).split("\n") == [
        "until                     ARA  images",
        "attack                 0.0188   1,000",
        "no better than random     0.5       -",
        "x                       12.25      7%",
    ]


def test_a_column_of_words_and_numbers_is_one_of_words():
    assert table(("a", "b"), [("1", "x"), ("long", "y")]) == "a     b\n1     x\nlong  y"


def test_no_rows_leave_the_header():
    assert table(("name", "n"), []) == "name  n"


def test_nothing_in_a_cell_makes_a_terminal_do_anything():
    assert table(("name",), [("a\x1b[31m\nb",), ("caf\udce9",)]).splitlines()[1:] == ["a\\x1b[31m b", "caf\\udce9"]
