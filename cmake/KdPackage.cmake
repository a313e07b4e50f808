# What is installed, and Debian packages of it: components distilld, distill-worker and
# distill-client, a package each (deploy/packages.sh). deploy/debian has their scripts and settings.
include(GNUInstallDirs)
set(debian ${CMAKE_SOURCE_DIR}/deploy/debian)
set(CMAKE_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE
    WORLD_READ WORLD_EXECUTE)

# Debian's changelog tells the version of the packages.
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${debian}/changelog)
file(STRINGS ${debian}/changelog first LIMIT_COUNT 1)
if(NOT first MATCHES "^distilld \\(${PROJECT_VERSION}\\) ")
  message(FATAL_ERROR "deploy/debian/changelog does not begin with version ${PROJECT_VERSION}")
endif()
set(changelog ${CMAKE_BINARY_DIR}/gen/changelog.gz)
add_custom_command(OUTPUT ${changelog} COMMAND gzip -9nc ${debian}/changelog > ${changelog}
                   DEPENDS ${debian}/changelog)
# Shells' completions, as the program prints them.
set(completions)
foreach(shell bash zsh fish)
  set(file ${CMAKE_BINARY_DIR}/gen/completion.${shell})
  add_custom_command(OUTPUT ${file} COMMAND distill completion ${shell} > ${file} DEPENDS distill)
  list(APPEND completions ${file})
endforeach()
# The coordinator's settings: every key, as `distilld init` writes them, for the service.
set(settings ${CMAKE_BINARY_DIR}/gen/distilld.yaml)
add_custom_command(OUTPUT ${settings} DEPENDS distilld ${debian}/settings.sh ${debian}/distilld.yaml
                   COMMAND bash ${debian}/settings.sh $<TARGET_FILE:distilld> ${debian}/distilld.yaml ${settings})
add_custom_target(package_files DEPENDS ${changelog} ${completions} ${settings} distilld distill-worker distill)
if(TARGET man)
  add_dependencies(package_files man)
endif()

# kd_package(<component> <program> <files for its documentation>...)
function(kd_package component program)
  set(doc ${CMAKE_INSTALL_DATAROOTDIR}/doc/${component})
  install(TARGETS ${program} RUNTIME COMPONENT ${component})
  install(FILES ${debian}/copyright ${changelog} ${ARGN} DESTINATION ${doc} COMPONENT ${component})
endfunction()
# kd_service(<component>): its unit and its user.
function(kd_service component)
  set(systemd ${CMAKE_SOURCE_DIR}/deploy/systemd)
  install(FILES ${systemd}/${component}.service DESTINATION lib/systemd/system COMPONENT ${component})
  install(FILES ${systemd}/${component}.sysusers.conf DESTINATION lib/sysusers.d RENAME ${component}.conf
          COMPONENT ${component})
endfunction()

# Pages come with those that they name; people who have the command line alone have them all.
set(docs ${CMAKE_SOURCE_DIR}/docs)
set(running_pages)
foreach(page hooks http jobs operations performance protocol reliability security storage)
  list(APPEND running_pages ${docs}/${page}.md)
endforeach()
set(using_pages)
foreach(page cli clients models tutorial weights)
  list(APPEND using_pages ${docs}/${page}.md)
endforeach()
kd_package(distilld distilld ${running_pages})
kd_service(distilld)
install(FILES ${settings} DESTINATION /etc/distilld COMPONENT distilld)
install(PROGRAMS ${CMAKE_SOURCE_DIR}/deploy/backup.sh DESTINATION libexec/distilld RENAME backup COMPONENT distilld)
install(DIRECTORY ${CMAKE_SOURCE_DIR}/deploy/monitoring DESTINATION ${CMAKE_INSTALL_DATAROOTDIR}/doc/distilld/examples
        COMPONENT distilld)
kd_package(distill-worker distill-worker ${running_pages})
kd_service(distill-worker)
install(FILES ${debian}/distill-worker.default DESTINATION /etc/default RENAME distill-worker COMPONENT distill-worker)
kd_package(distill-client distill ${running_pages} ${using_pages})
install(FILES ${CMAKE_SOURCE_DIR}/deploy/quickstart-drawn.yaml ${CMAKE_SOURCE_DIR}/proto/distill.proto
        DESTINATION ${CMAKE_INSTALL_DATAROOTDIR}/doc/distill-client/examples COMPONENT distill-client)
set(gen ${CMAKE_BINARY_DIR}/gen)
install(FILES ${gen}/completion.bash DESTINATION ${CMAKE_INSTALL_DATAROOTDIR}/bash-completion/completions
        RENAME distill COMPONENT distill-client)
install(FILES ${gen}/completion.zsh DESTINATION ${CMAKE_INSTALL_DATAROOTDIR}/zsh/vendor-completions
        RENAME _distill COMPONENT distill-client)
install(FILES ${gen}/completion.fish DESTINATION ${CMAKE_INSTALL_DATAROOTDIR}/fish/vendor_completions.d
        RENAME distill.fish COMPONENT distill-client)

set(CPACK_GENERATOR DEB)
set(CPACK_COMPONENTS_ALL distilld distill-worker distill-client)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_PRE_BUILD_SCRIPTS ${CMAKE_SOURCE_DIR}/cmake/GzipManuals.cmake)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS ${CMAKE_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS})
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_ENABLE_COMPONENT_DEPENDS OFF)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
file(STRINGS ${debian}/changelog signed REGEX "^ -- " LIMIT_COUNT 1)
string(REGEX REPLACE "^ -- (.*>)  .*" "\\1" CPACK_DEBIAN_PACKAGE_MAINTAINER "${signed}")
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(about "distilld turns large trained networks into small ones by knowledge\n\
distillation, on as many machines as there are. One job gives the same bits\n\
for any number of workers.\n")
# kd_debian(<component> <synopsis> <what the package has>)
macro(kd_debian component synopsis text)
  string(TOUPPER ${component} id)
  set(CPACK_DEBIAN_${id}_PACKAGE_NAME ${component})
  set(CPACK_COMPONENT_${id}_DESCRIPTION "${synopsis}\n${about}.\n${text}")
  foreach(script preinst postinst prerm postrm conffiles)
    if(EXISTS ${debian}/${component}/${script})
      list(APPEND CPACK_DEBIAN_${id}_PACKAGE_CONTROL_EXTRA ${debian}/${component}/${script})
    endif()
  endforeach()
endmacro()
kd_debian(distilld "coordinator of distributed knowledge distillation"
          "This package has the coordinator: it takes jobs, schedules them on workers\n\
and keeps what they make.")
kd_debian(distill-worker "worker of a distilld coordinator"
          "This package has the worker: it trains for a coordinator that it has\n\
joined.")
kd_debian(distill-client "command line of a distilld coordinator"
          "This package has the command line: submit, watch and fetch jobs, use their\n\
results.")
set(users "systemd | systemd-standalone-sysusers | systemd-sysusers")
set(CPACK_DEBIAN_DISTILLD_PACKAGE_DEPENDS "${users}")
set(CPACK_DEBIAN_DISTILLD_PACKAGE_RECOMMENDS distill-client)
set(CPACK_DEBIAN_DISTILLD_PACKAGE_SUGGESTS sqlite3)
set(CPACK_DEBIAN_DISTILL-WORKER_PACKAGE_DEPENDS "${users}")
include(CPack)
