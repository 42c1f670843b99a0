//! Pods on this machine, seen from outside: real runc and crun, real CNI plugins, a real registry,
//! crictl and the kubelet's own protocol. `make e2e` runs all, `make e2e TEST=word` some.

use std::process::ExitCode;

use e2e::cases;
use e2e::runner::Case;

mod bad_requests;
mod checkpoint;
mod churn;
mod confinement;
mod crictl;
mod daemon;
mod events;
mod every_rpc;
mod execs;
mod faults;
mod floods;
mod halfway;
mod hostile;
mod images;
mod lies;
mod lifecycle;
mod limits;
mod logs;
mod namespaces;
mod neighbours;
mod network;
mod nri;
mod privileged;
mod records;
mod resources;
mod restart;
mod restore;
mod retry;
mod sessions;
mod stats;
mod strangers;
mod streaming;
mod stuck;
mod support;
mod trust;
mod unpacker;
mod userns;
mod volumes;
mod walls;

fn main() -> ExitCode {
    e2e::runner::main(&together(), &alone())
}

/// Tests that leave the machine to others as well.
#[allow(clippy::too_many_lines, reason = "a table")]
fn together() -> Vec<Case> {
    cases![
        daemon::version_config_and_check_say_what_they_should,
        daemon::every_mistake_of_a_configuration_is_named_with_file_key_and_line,
        daemon::a_long_state_directory_is_as_good_as_a_short_one,
        daemon::readiness_is_announced_and_sigterm_drains,
        daemon::a_log_that_takes_nothing_fails_no_request,
        daemon::two_daemons_never_share_a_root,
        daemon::a_missing_network_configuration_is_a_reason_in_status,
        crictl::every_command_works_with_runc,
        crictl::every_command_works_with_crun,
        crictl::listings_show_what_their_filters_say,
        crictl::commands_take_the_beginning_of_an_id,
        crictl::logs_are_followed_to_the_end_and_cut_as_asked,
        crictl::settings_and_resources_are_shown_and_changed,
        crictl::run_makes_a_pod_with_a_container,
        images::layers_of_every_compression_and_manifest_kind_unpack_alike,
        images::whiteouts_hide_and_later_layers_win,
        images::a_private_registry_wants_the_password,
        images::bearer_tokens_are_fetched_and_used,
        images::many_pulls_of_one_image_are_one_pull,
        images::an_image_goes_and_comes_by_tag_and_digest,
        images::an_image_stays_for_as_long_as_a_container_uses_it,
        images::plain_http_is_only_spoken_where_the_configuration_says_so,
        unpacker::layers_are_unpacked_by_a_process_that_has_next_to_nothing,
        unpacker::a_killed_unpacker_fails_its_pull_and_no_more,
        unpacker::a_killed_daemon_leaves_no_unpacker,
        unpacker::an_upgrade_of_the_program_does_not_end_pulls,
        unpacker::a_host_that_gives_less_confinement_is_told_of_and_pulls,
        unpacker::a_host_that_has_used_up_its_namespaces_pulls_nothing,
        lifecycle::states_times_and_exit_codes_are_exact,
        lifecycle::stop_asks_waits_and_kills,
        lifecycle::stopping_and_removing_twice_or_never_made_is_fine,
        lifecycle::an_exec_that_takes_too_long_is_killed,
        lifecycle::an_exec_reports_both_outputs_and_the_code,
        lifecycle::a_command_that_does_not_exist_is_a_clear_error,
        logs::streams_partial_lines_and_the_last_line_are_tagged,
        logs::a_link_below_a_pods_directory_of_logs_leads_nowhere,
        network::pods_reach_each_other_and_a_host_port_leads_in,
        network::a_host_network_pod_needs_no_plugin,
        network::resolv_conf_and_hostname_are_the_requests,
        network::sysctls_apply_in_the_pod_alone,
        network::no_pod_becomes_the_router_of_others,
        network::the_pods_addresses_become_a_network_by_the_template,
        network::a_failing_plugin_is_undone_and_owed_deletes_are_paid,
        confinement::the_default_is_confined,
        confinement::the_nodes_console_is_not_a_containers,
        confinement::a_monitor_has_no_rights_but_for_the_calls_that_need_them,
        confinement::who_sees_the_nodes_processes_gets_into_no_monitor,
        confinement::seccomp_filters_when_asked,
        confinement::capabilities_are_as_asked,
        confinement::users_come_by_number_name_and_image,
        confinement::a_read_only_root_cannot_be_written,
        confinement::mounts_arrive_with_their_options,
        confinement::a_shared_process_namespace_has_our_pause,
        hostile::an_images_links_lead_nowhere_on_the_node,
        hostile::seven_thousand_nested_directories_are_removed,
        volumes::an_image_is_a_volume,
        volumes::an_image_volume_that_cannot_be_says_so_first,
        volumes::image_volumes_outlive_the_daemon,
        volumes::mounts_travel_as_asked_or_are_refused,
        volumes::options_and_recursive_read_only_are_in_the_kernel,
        volumes::a_volume_of_a_directory_of_ours_is_refused,
        walls::a_container_that_fills_its_etc_takes_no_room_of_others,
        walls::a_pod_of_an_older_daemon_keeps_its_plain_files,
        lifecycle::stop_signals_are_sent_by_number_and_reported,
        lifecycle::an_end_that_nobody_saw_is_told_as_that,
        lifecycle::a_start_that_fails_is_an_exit_with_a_log,
        namespaces::the_nodes_processes_and_ipc_are_seen_when_asked_for,
        namespaces::a_debug_container_joins_its_targets_processes,
        privileged::a_privileged_container_has_what_the_daemon_has_and_one_warning,
        privileged::what_the_daemon_may_not_give_is_clamped_with_one_warning,
        privileged::apparmor_is_what_the_host_can_do,
        limits::limits_are_in_the_kernel,
        limits::an_oom_kill_is_named,
        resources::an_update_is_in_the_kernel_in_the_status_and_survives,
        resources::an_update_that_cannot_be_leaves_everything_as_it_was,
        resources::twenty_updates_at_once_end_with_one_of_them,
        resources::a_runtime_that_hangs_in_an_update_holds_up_nothing_else,
        resources::a_pods_resources_are_noted_while_it_is_ready,
        events::a_pods_life_is_told_in_its_order,
        events::an_end_that_overtakes_the_start_is_told_after_it,
        events::who_never_reads_does_not_hold_up_the_end_of_the_daemon,
        events::a_new_daemon_tells_what_happens_to_old_pods,
        stats::what_does_not_run_has_no_figures_but_its_layer,
        stats::a_new_daemon_has_figures_of_old_containers,
        stats::metrics_have_the_names_and_labels_that_are_announced,
        stats::crictl_shows_statistics_and_metrics,
        stats::the_daemon_counts_what_it_does,
        halfway::a_stop_that_failed_is_finished_by_a_retry_a_restart_or_the_daemon_itself,
        halfway::a_clean_up_that_failed_is_tried_again_without_being_asked,
        halfway::a_lost_monitor_and_an_error_while_looking_do_not_keep_a_stop_from_ending,
        halfway::a_pod_that_lost_a_part_is_not_ready_at_once_after_a_restart_or_soon,
        bad_requests::each_is_refused_by_the_name_of_its_field,
        every_rpc::the_table_has_every_rpc_of_the_interface,
        every_rpc::nothing_or_nonsense_gets_the_right_code,
        every_rpc::the_beginning_of_an_id_is_enough_unless_several_begin_so,
        every_rpc::clients_that_hang_up_at_once_leave_nothing,
        retry::the_same_request_twenty_times_is_one_pod_and_one_container,
        retry::a_repeated_start_is_told_how_the_first_one_went,
        retry::the_last_to_ask_has_the_name_while_it_is_being_made,
        retry::a_client_that_hangs_up_neither_interrupts_nor_leaks,
        nri::a_plugin_hears_of_a_life_in_order,
        nri::what_a_plugin_adjusts_is_in_the_container,
        nri::a_stuck_plugin_holds_up_one_pod_and_is_sent_away,
        nri::who_joins_late_sees_every_container_exactly_once,
        nri::installed_plugins_come_and_go_with_the_daemon,
        restart::twenty_pods_survive_a_killed_daemon,
        restart::a_damaged_record_does_not_stop_the_daemon,
        faults::errors_while_records_are_read_end_nothing_and_are_tried_again,
        faults::an_error_at_any_call_of_a_start_ends_nothing,
        faults::what_is_lost_under_the_daemon_is_written_again_and_a_failed_look_ends_nothing,
        records::a_damaged_record_leaves_what_it_names_until_a_person_decides,
        records::a_container_without_a_record_ends_with_its_pod,
        records::records_of_an_older_crisol_are_read_and_those_of_a_newer_one_refused,
        records::another_root_is_refused_and_the_right_one_finds_everything_again,
        restart::after_a_reboot_nothing_old_is_believed_or_touched,
        restart::killed_at_any_moment_the_daemon_cleans_up,
        stuck::a_mount_that_never_answers_holds_up_its_own_container_alone,
        stuck::a_runtime_that_never_returns_holds_up_its_own_container_alone,
        stuck::a_runtime_that_hangs_in_an_exec_holds_up_its_own_container_alone,
        stuck::runtimes_that_hang_in_all_slots_hold_up_their_own_containers_alone,
        stuck::a_frozen_container_holds_up_nobody_and_can_be_stopped,
        streaming::exec_works_with_crictl_over_both_transports,
        streaming::a_terminal_has_a_size_and_hangs_up_with_its_client,
        streaming::attach_shows_output_and_takes_input,
        streaming::port_forward_reaches_the_pod_over_both_transports,
        streaming::one_refused_connection_does_not_end_the_others,
        streaming::a_token_works_once_and_only_for_its_purpose,
        streaming::what_cannot_be_streamed_is_refused,
        streaming::a_client_that_does_not_read_holds_up_nobody,
        streaming::many_clients_leave_room_for_probes,
        streaming::a_removed_container_ends_its_sessions,
        streaming::tls_is_spoken_and_a_renewed_certificate_is_used,
        execs::a_frozen_container_holds_up_its_own_commands_alone,
        trust::what_others_may_write_is_not_used_until_that_is_accepted,
        trust::what_others_may_write_later_is_not_used_either,
        trust::who_enters_a_container_is_written_down,
        trust::commands_of_probes_are_written_down_when_asked_for,
        sessions::a_killed_daemon_ends_its_sessions_and_not_the_container,
        sessions::a_client_whose_network_falls_silent_is_given_up,
        sessions::a_person_at_a_terminal_attaches_types_resizes_and_leaves,
        userns::root_inside_is_nobody_outside,
        userns::nobody_on_the_node_enters_what_is_the_runtimes,
        userns::volumes_show_the_pods_owners_or_are_refused,
        userns::limits_apply_below_the_parent,
        userns::a_shared_process_namespace_belongs_to_the_pod,
        userns::a_restart_keeps_the_mapping_and_removal_leaves_nothing,
        userns::what_cannot_be_is_refused_by_the_name_of_its_field,
        checkpoint::wrong_requests_are_refused_and_leave_nothing,
        checkpoint::a_container_goes_on_and_its_archive_is_whole,
        checkpoint::a_pod_is_captured_at_one_moment,
        checkpoint::a_container_that_a_killed_daemon_froze_goes_on,
        restore::a_pod_goes_on_where_its_checkpoint_was_made,
        restore::a_start_that_a_crash_cuts_off_is_not_lost,
        restore::what_is_no_checkpoint_of_the_pod_is_refused,
        restore::a_hostile_checkpoint_steers_nothing,
        lies::a_lying_registry_leaves_nothing_but_an_error,
        lifecycle::five_hundred_containers_report_zero,
        logs::two_hundred_mebibytes_and_twenty_reopens_lose_nothing,
        events::who_never_reads_is_cut_off_and_the_other_hears_everything,
        streaming::a_thousand_dropped_clients_leave_nothing,
        strangers::those_without_a_token_take_nobodys_place,
        floods::a_hundred_thousand_sizes_are_one_and_leave_nothing,
        floods::resets_and_headers_without_end_harm_nobody_else,
        churn::two_hundred_pods_come_and_go_without_a_trace,
    ]
}

/// Tests that measure what the daemon costs, or ask so much of the machine that others would wait.
fn alone() -> Vec<Case> {
    cases![
        stats::figures_of_a_busy_container_are_right_with_runc,
        stats::figures_of_a_busy_container_are_right_with_crun,
        stats::a_hundred_containers_are_listed_at_once_and_come_and_go_meanwhile,
        execs::two_hundred_at_once_succeed_or_are_told_why_not,
        floods::output_without_end_is_cut_and_costs_what_it_may,
        floods::clients_that_attach_and_vanish_leave_nothing,
        floods::pods_that_no_list_holds_are_told_one_by_one,
    ]
}
