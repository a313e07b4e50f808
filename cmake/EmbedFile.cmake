# Writes the bytes of IN as a C array `kd_descriptor_set` to OUT.
file(READ ${IN} hex HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
file(WRITE ${OUT} "static const unsigned char kd_descriptor_set[] = {${bytes}};\n")
