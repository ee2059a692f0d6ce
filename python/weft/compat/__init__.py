"""Names and arguments of other packages, computed by Weft: an import line is all that changes.

    from weft.compat.ring_flash_attn import zigzag_ring_flash_attn_func
    from weft.compat.yunchang import LongContextAttention, set_seq_parallel_pg

What an argument asks for is done or refused with ValueError, never ignored.
"""
