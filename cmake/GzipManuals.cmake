# Run by CPack before a package is made of what was installed: Debian has its manual pages compressed.
# GLOB_RECURSE looks for names alone in the folders below.
file(GLOB_RECURSE pages ${CPACK_TEMPORARY_DIRECTORY}/*.[1-9])
list(FILTER pages INCLUDE REGEX "/share/man/man[1-9]/")
if(NOT pages)
  message(FATAL_ERROR "no manual pages beneath ${CPACK_TEMPORARY_DIRECTORY}")
endif()
execute_process(COMMAND gzip -9nf ${pages} COMMAND_ERROR_IS_FATAL ANY)
