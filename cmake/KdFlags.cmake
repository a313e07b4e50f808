# Compiler flags shared by every target. Floating-point flags are the same in every preset, so that
# `release` and `dev` give one digest: no contraction, no value-changing optimisation.
add_compile_options(-Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Wstrict-prototypes
                    -Wmissing-prototypes -Wvla -Wimplicit-fallthrough -Wformat=2 -Wundef
                    -Wpointer-arith)
if(KD_WERROR)
  add_compile_options(-Werror)
endif()
add_compile_options(-ffp-contract=off -fno-math-errno -fno-common -fstack-protector-strong)
add_compile_definitions(_GNU_SOURCE KD_VERSION="${PROJECT_VERSION}")
if(KD_FAILPOINTS)
  add_compile_definitions(KD_FAILPOINTS)
endif()
set(CMAKE_C_FLAGS_RELEASE "-O3 -g")
set(CMAKE_C_FLAGS_DEBUG "-O1 -g -fno-omit-frame-pointer")
if(KD_SANITIZE)
  add_compile_options(-fsanitize=${KD_SANITIZE} -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${KD_SANITIZE})
endif()
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
