# kd_proto_c(<target> <proto>...): protobuf-c code as a library.
# kd_descriptor_set(<target> <name> <proto>...): one descriptor set (for server reflection) as kd_<name> in <name>.h, made
# with the target.
find_program(PROTOC protoc REQUIRED)
find_program(PROTOC_C protoc-c REQUIRED)
function(kd_proto_c target)
  set(out ${CMAKE_BINARY_DIR}/gen)
  file(MAKE_DIRECTORY ${out})
  set(srcs)
  foreach(p ${ARGN})
    string(REGEX REPLACE "\\.proto$" "" stem ${p})
    add_custom_command(
      OUTPUT ${out}/${stem}.pb-c.c ${out}/${stem}.pb-c.h
      COMMAND ${PROTOC_C} --c_out=${out} -I ${CMAKE_SOURCE_DIR}/proto ${CMAKE_SOURCE_DIR}/proto/${p}
      DEPENDS ${CMAKE_SOURCE_DIR}/proto/${p} VERBATIM)
    list(APPEND srcs ${out}/${stem}.pb-c.c ${out}/${stem}.pb-c.h)
  endforeach()
  add_library(${target} STATIC ${srcs})
  target_include_directories(${target} SYSTEM PUBLIC ${out})
  target_compile_options(${target} PRIVATE -w)
  target_link_libraries(${target} PUBLIC PkgConfig::libprotobuf_c)
endfunction()
function(kd_descriptor_set target name)
  set(out ${CMAKE_BINARY_DIR}/gen)
  list(TRANSFORM ARGN PREPEND ${CMAKE_SOURCE_DIR}/proto/ OUTPUT_VARIABLE protos)
  add_custom_command(
    OUTPUT ${out}/${name}.bin ${out}/${name}.h
    COMMAND ${PROTOC} --include_imports --descriptor_set_out=${out}/${name}.bin
            -I ${CMAKE_SOURCE_DIR}/proto ${protos}
    COMMAND ${CMAKE_COMMAND} -DIN=${out}/${name}.bin -DOUT=${out}/${name}.h -DNAME=kd_${name}
            -P ${CMAKE_SOURCE_DIR}/cmake/EmbedFile.cmake
    DEPENDS ${protos} VERBATIM)
  target_sources(${target} PRIVATE ${out}/${name}.h)
endfunction()
