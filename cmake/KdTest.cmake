# kd_test_folder(<folder> <link targets>...): every test_*.c in the folder is one program and one
# ctest test named after its file, labelled with the folder.
function(kd_test_folder folder)
  file(GLOB tests CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${folder}/test_*.c)
  foreach(src ${tests})
    get_filename_component(name ${src} NAME_WE)
    add_executable(${name} ${src})
    target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests/support)
    target_link_libraries(${name} PRIVATE kd_test_support ${ARGN} PkgConfig::cmocka)
    set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
    add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
    set_tests_properties(${name} PROPERTIES LABELS ${folder} TIMEOUT 600
      ENVIRONMENT "TSAN_OPTIONS=ignore_noninstrumented_modules=1;KD_BUILD=${CMAKE_BINARY_DIR}")
  endforeach()
endfunction()
