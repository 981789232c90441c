"""Causes: the codes that say why a message stands where it does."""

from enum import StrEnum


class Cause(StrEnum):
    """The cause of where a message stands. Each has its sentence in `en.toml` and `fa.toml`."""

    # It waits.
    SCHEDULED = "scheduled"  #: Its time has not come.
    HELD = "held"  #: It is held since a backup was restored.
    PAUSED = "paused"  #: The queue of its device is paused.
    WAITING_FOR_CONTACT = "waiting_for_contact"  #: It leaves when its device speaks.
    CONTACT_UNNOTICED = "contact_unnoticed"  #: Likewise, and nothing that devices publish is received now.
    CONTACT_MADE = "contact_made"  #: Its device spoke, and it leaves within seconds.
    CONTACT_RETRY = "contact_retry"  #: Its device spoke and was not subscribed; it is tried once more.
    CONTACT_UNSUBSCRIBED = "contact_unsubscribed"  #: … and was not subscribed; it waits for the next time.
    WAITING_FOR_REPLY = "waiting_for_reply"  #: Its device has yet to answer a message before it.
    WAITING_FOR_MESSAGE = "waiting_for_message"  #: A message before it has to leave and be answered first.
    WAITING_FOR_ANOTHER = "waiting_for_another"  #: Likewise, of a message that is not shown to this caller.
    BROKER_AWAY = "broker_away"  #: This gateway process has lost its session with the broker.
    BROKER_NOT_MET = "broker_not_met"  #: It has had none since it started.
    BROKER_UNRESPONSIVE = "broker_unresponsive"  #: It has one, and the broker answers nothing.
    PUT_OFF = "put_off"  #: The broker refused it for now.
    RETRIED_LATER = "retried_later"  #: An attempt went wrong, and the next one has its time.
    SENT_AGAIN_LINK_LOST = "sent_again_link_lost"  #: It left, and the session ended before the acknowledgement.
    SENT_AGAIN_PROCESS_DIED = "sent_again_process_died"  #: It may have left, and the process that sent it ended.
    SENT_AGAIN = "sent_again"  #: An earlier attempt may have arrived.
    BEHIND_PUT_OFF = "behind_put_off"  #: A message of its device that the broker put off is before it.
    BEHIND_IN_FLIGHT = "behind_in_flight"  #: One that is on its way is before it.
    BEHIND_QUEUED = "behind_queued"  #: Some that wait are before it.
    IN_LINE = "in_line"  #: Messages of other devices leave first.
    NEXT_IN_LINE = "next_in_line"  #: Nothing is before it.

    # It is on its way.
    IN_FLIGHT = "in_flight"  #: The broker has not acknowledged it yet.
    IN_FLIGHT_UNANSWERED = "in_flight_unanswered"  #: … and is connected, and answers nothing.
    IN_FLIGHT_LINK_DOWN = "in_flight_link_down"  #: The session has ended, and its outcome is being saved.
    IN_FLIGHT_SUPERSEDED = "in_flight_superseded"  #: A newer message has taken its place meanwhile.
    SENDER_ENDED = "sender_ended"  #: The process that was sending it has ended.

    # The broker has it.
    PUBLISHED = "published"  #: Nobody knows whether anybody was subscribed, and no reply is expected.
    PUBLISHED_SUBSCRIBED = "published_subscribed"  #: Somebody was subscribed, and no reply is expected.
    PUBLISHED_UNSUBSCRIBED = "published_unsubscribed"  #: Nobody was subscribed.
    PUBLISHED_OFFLINE = "published_offline"  #: Its device was offline, and is since.
    PUBLISHED_AFTER_RETURN = "published_after_return"  #: The broker took it after its device came online.
    PUBLISHED_AFTER_OUTAGE = "published_after_outage"  #: … after an outage in which it was accepted.
    PUBLISHED_ON_CONTACT = "published_on_contact"  #: … after its device spoke, for which it waited.
    PUBLISHED_ON_SCHEDULE = "published_on_schedule"  #: … when it was due.
    PUBLISHED_AGAIN = "published_again"  #: … at a later attempt; an earlier one may have arrived too.
    PUBLISHED_AFTER_REFUSALS = "published_after_refusals"  #: … at a later attempt, as it had put it off.
    RETAINED_TAKEN_BACK = "retained_taken_back"  #: It was retained, and the broker was made to forget it.
    CLEARED = "cleared"  #: It is the empty message that made the broker forget another one.
    AWAITING_REPLY = "awaiting_reply"  #: Its device's reply is awaited.
    AWAITING_REPLY_UNSUBSCRIBED = "awaiting_reply_unsubscribed"  #: … and nobody was subscribed.
    AWAITING_REPLY_NOT_RECEIVING = "awaiting_reply_not_receiving"  #: … and nothing that devices publish is received.
    AWAITING_REPLY_OFFLINE = "awaiting_reply_offline"  #: … and its device is offline.
    AWAITING_REPLY_UNMATCHED = "awaiting_reply_unmatched"  #: … and its device sent one that belongs to no message.

    # Its device has spoken of it.
    DEVICE_AT_WORK = "device_at_work"  #: It reported progress, and its final word is awaited.
    DEVICE_REPLIED = "device_replied"  #: It said something that is no final word, and none is awaited.
    SUCCEEDED = "succeeded"  #: It reported success.
    SUCCEEDED_AFTER_RETURN = "succeeded_after_return"  #: … after it came online.
    SUCCEEDED_BY_ORDER = "succeeded_by_order"  #: … in a reply that names no message.
    SUCCEEDED_LATE = "succeeded_late"  #: … after its time to reply was over.
    SUCCEEDED_UNACKNOWLEDGED = "succeeded_unacknowledged"  #: … and the broker never acknowledged the message.
    SUCCEEDED_CONTRADICTED = "succeeded_contradicted"  #: … and failure behind that.
    FAILED = "failed"  #: It reported failure.
    FAILED_AFTER_RETURN = "failed_after_return"  #: … after it came online.
    FAILED_BY_ORDER = "failed_by_order"  #: … in a reply that names no message.
    FAILED_LATE = "failed_late"  #: … after its time to reply was over.
    FAILED_UNACKNOWLEDGED = "failed_unacknowledged"  #: … and the broker never acknowledged the message.
    FAILED_CONTRADICTED = "failed_contradicted"  #: … and success behind that.

    # It did not reply in time.
    NO_REPLY = "no_reply"  #: Nothing says why.
    NO_REPLY_UNMATCHED = "no_reply_unmatched"  #: It sent something that belongs to no message.
    NO_REPLY_AFTER_PROGRESS = "no_reply_after_progress"  #: It reported progress, and nothing behind that.
    NO_REPLY_UNSUBSCRIBED = "no_reply_unsubscribed"  #: Nobody was subscribed.
    NO_REPLY_NOT_RECEIVING = "no_reply_not_receiving"  #: Nothing that devices publish was received.
    NO_REPLY_OFFLINE = "no_reply_offline"  #: It was offline.
    NO_REPLY_ONLINE = "no_reply_online"  #: It was online all the time.

    # It was not sent and never will be.
    DEVICE_OFFLINE = "device_offline"  #: `only_if_online`, and its device was offline.
    PRESENCE_UNKNOWN = "presence_unknown"  #: `only_if_online`, and nobody knew whether its device was there.
    DEVICE_BUSY = "device_busy"  #: `only_if_online`, and something else of its device had to leave first.
    QUEUE_PAUSED = "queue_paused"  #: `only_if_online`, and the queue of its device was paused.
    BROKER_UNREACHABLE = "broker_unreachable"  #: There was no session, and it was not to wait for one.
    QUARANTINED = "quarantined"  #: The session ended, or nothing was answered, whenever it was sent.
    INTERNAL_ERROR = "internal_error"  #: A fault of the gateway.
    OUTCOME_UNKNOWN = "outcome_unknown"  #: The database did not say whether it was saved, so it was withdrawn.
    UNSPECIFIED_ERROR = "unspecified_error"  #: The broker refused it without a reason.
    IMPLEMENTATION_SPECIFIC_ERROR = "implementation_specific_error"  #: The broker does not take it.
    NOT_AUTHORIZED = "not_authorized"  #: The gateway may not publish on its topic.
    TOPIC_NAME_INVALID = "topic_name_invalid"  #: The broker does not take its topic.
    PACKET_IDENTIFIER_IN_USE = "packet_identifier_in_use"  #: The broker still knew the packet id.
    PACKET_TOO_LARGE = "packet_too_large"  #: It is larger than the broker takes.
    QUOTA_EXCEEDED = "quota_exceeded"  #: An administrative limit of the broker.
    PAYLOAD_FORMAT_INVALID = "payload_format_invalid"  #: Its payload is not what its format says.
    RETAIN_NOT_SUPPORTED = "retain_not_supported"  #: The broker retains nothing.
    QOS_NOT_SUPPORTED = "qos_not_supported"  #: Its QoS is higher than the broker takes.
    REFUSED = "refused"  #: The broker refused it with another code.

    # Whether it arrived is unknown.
    QOS_0 = "qos_0"  #: It left at QoS 0.
    UNCONFIRMED_LINK_LOST = "unconfirmed_link_lost"  #: At most once, and the session ended.
    UNCONFIRMED_PROCESS_DIED = "unconfirmed_process_died"  #: At most once, and the gateway ended.
    UNCONFIRMED_SUPERSEDED = "unconfirmed_superseded"  #: A newer message took its place after it may have left.
    UNCONFIRMED_HELD = "unconfirmed_held"  #: At most once, and it may have left before a backup was restored.
    UNCONFIRMED_FAULT = "unconfirmed_fault"  #: A fault of the gateway.
    UNCONFIRMED_NOT_AGAIN = "unconfirmed_not_again"  #: `only_if_online`, and it could not be sent again.
    UNCONFIRMED = "unconfirmed"  #: Another reason, which the message names.

    # Its time ran out.
    EXPIRED = "expired"  #: Nothing that is kept says what it waited for.
    EXPIRED_IN_DOUBT = "expired_in_doubt"  #: It had left before, and was not acknowledged.
    EXPIRED_UNATTENDED = "expired_unattended"  #: No gateway process could attend to the queue then.
    EXPIRED_PAUSED = "expired_paused"  #: The queue of its device was paused, and is since.
    EXPIRED_BROKER_AWAY = "expired_broker_away"  #: There was no session with the broker.
    EXPIRED_IN_OUTAGE = "expired_in_outage"  #: There was none then, and there was one again later.
    EXPIRED_UNSUBSCRIBED = "expired_unsubscribed"  #: Its device spoke, and was not subscribed.
    EXPIRED_NO_CONTACT = "expired_no_contact"  #: Its device did not speak.
    EXPIRED_PUT_OFF = "expired_put_off"  #: The broker kept putting it off.
    EXPIRED_BEHIND_REPLY = "expired_behind_reply"  #: Its device had yet to answer a message before it.
    EXPIRED_BEHIND_ANOTHER = "expired_behind_another"  #: Likewise, of a message that is not shown to this caller.

    # It was withdrawn.
    CANCELLED = "cancelled"  #: Somebody cancelled it.
    CANCELLED_WITH_KEY = "cancelled_with_key"  #: The API key that sent it was revoked.
    CANCELLED_HELD = "cancelled_held"  #: It was held since a backup was restored.
    SUPERSEDED = "superseded"  #: A newer message with its `collapse_key` took its place.
    SUPERSEDED_CLEARING = "superseded_clearing"  #: It would have made the broker forget something newer.
    PURGED = "purged"  #: All that waited for its device was withdrawn.
    WITHDRAWN_UNSAVED = "withdrawn_unsaved"  #: The database did not say whether it was saved.
