from pystrands.protocol.close_codes import close_code_is_valid


def test_valid_close_codes():
    valid = {code for code in range(66000) if close_code_is_valid(code)}
    assert valid == {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}
    assert not close_code_is_valid(-1)
