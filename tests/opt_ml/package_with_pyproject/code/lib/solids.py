def volume(*sides: int) -> int:
    product = 1
    for side in sides:
        product *= side
    return product
