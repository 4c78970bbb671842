/* Names of sums. They have names and are no array: compilers keep arrays in memory, which halves the
 * speed. Row r times column c is sum<r>_<c>; a set says how many columns (registers) a tile has. */

#ifndef EMBEDFLEET_ROWS_TIMES_H
#define EMBEDFLEET_ROWS_TIMES_H

#define ROWS_1(M) M(0)
#define ROWS_2(M) ROWS_1(M) M(1)
#define ROWS_3(M) ROWS_2(M) M(2)
#define ROWS_4(M) ROWS_3(M) M(3)
#define ROWS_5(M) ROWS_4(M) M(4)
#define ROWS_6(M) ROWS_5(M) M(5)
#define ROWS_7(M) ROWS_6(M) M(6)
#define ROWS_8(M) ROWS_7(M) M(7)
#define ROWS_9(M) ROWS_8(M) M(8)
#define ROWS_10(M) ROWS_9(M) M(9)
#define ROWS_11(M) ROWS_10(M) M(10)
#define ROWS_12(M) ROWS_11(M) M(11)

#define UP_TO_3(M) M(1) M(2) M(3)
#define UP_TO_4(M) UP_TO_3(M) M(4)
#define UP_TO_5(M) UP_TO_4(M) M(5)
#define UP_TO_6(M) UP_TO_5(M) M(6)
#define UP_TO_12(M) UP_TO_6(M) M(7) M(8) M(9) M(10) M(11) M(12)
#define UP_TO(count, M) UP_TO_OF(count, M)
#define UP_TO_OF(count, M) UP_TO_##count(M)

#define COLUMNS_1(M, r) M(r, 0)
#define COLUMNS_2(M, r) COLUMNS_1(M, r) M(r, 1)
#define COLUMNS_3(M, r) COLUMNS_2(M, r) M(r, 2)
#define COLUMNS_4(M, r) COLUMNS_3(M, r) M(r, 3)
#define COLUMNS_OF(count, M, r) COLUMNS_##count(M, r)
/* M(r, c) for each register of a panel. */
#define EACH_COLUMN_IN(count, M, r) COLUMNS_OF(count, M, r)

/* Where row `r` is: three pointers and multiples of the stride that an address may hold. */
#define AT_0 (a)
#define AT_1 (a + stride)
#define AT_2 (a + 2 * stride)
#define AT_3 (a + triple)
#define AT_4 (b)
#define AT_5 (b + stride)
#define AT_6 (b + 2 * stride)
#define AT_7 (b + triple)
#define AT_8 (c)
#define AT_9 (c + stride)
#define AT_10 (c + 2 * stride)
#define AT_11 (c + triple)

#endif
