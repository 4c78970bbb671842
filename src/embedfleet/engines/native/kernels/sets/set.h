/* The table of a set, after all that it names. SET, NEEDS and HALVES are its own. */

#ifndef TOGETHER
#define TOGETHER 4
#endif
#ifndef QUICK_INT8
#define QUICK_INT8 1
#endif
#define TEXT_OF(name) #name
#define TEXT(name) TEXT_OF(name)
#define TABLE_OF(name) instruction_set_##name
#define TABLE(name) TABLE_OF(name)

extern const InstructionSet TABLE(SET);
const InstructionSet TABLE(SET) = {
    .name = TEXT(SET),
    .needs = NEEDS,
    .byte_rows = BYTE_ROWS,
    .byte_panel = PANEL,
    .float_rows = FLOAT_ROWS,
    .float_panel = PANEL,
    .together = TOGETHER,
    .offset = OFFSET,
    .most_value = (int)MOST_VALUE,
    .quick_int8 = QUICK_INT8,
    .multiply_bytes = multiply_bytes,
    .multiply_floats = multiply_floats,
    .store_tile = store_tile,
    .add_tile = add_tile,
    .rms_norm = rms_norm,
    .layer_norm = layer_norm,
    .quantise = quantise,
    .quantise_weights = quantise_weights,
    .rotate = rotate,
    .swiglu = swiglu,
    .gelu = gelu,
    .floats = &floats,
    .halves = HALVES,
};
