package org.palmtop.app.logic;

import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import org.palmtop.core.engine.Message;
import org.palmtop.core.media.MediaItem;

/** Selection of the chat's messages for the model, and their conversion. */
public final class Dialogue {
    /** Conversion of the app's files to the engine's media. */
    public interface MediaOpener {
        MediaItem open(Attachment attachment);
    }

    private Dialogue() {}

    /** A question without an answer is left out, the last one excepted: chat templates know only pairs. */
    static List<Message> messages(List<Entry> entries, String systemPrompt, MediaOpener opener) {
        List<Message> messages = new ArrayList<Message>();
        if (!systemPrompt.trim().isEmpty()) {
            messages.add(Message.system(systemPrompt.trim()));
        }
        for (int i = 0; i < entries.size(); i++) {
            Entry entry = entries.get(i);
            boolean isLast = i == entries.size() - 1;
            if (entry.isUser && (isLast || isAnswer(entries.get(i + 1)))) {
                List<MediaItem> media = new ArrayList<MediaItem>();
                for (Attachment attachment : entry.attachments) {
                    media.add(opener.open(attachment));
                }
                messages.add(new Message("user", entry.text, media));
            } else if (!entry.isUser && isAnswer(entry)) {
                messages.add(Message.assistant(entry.text));
            }
        }
        return messages;
    }

    /** The mode of what the chat holds, with more attached: a key of the manifest's routing table. */
    static String mode(List<Entry> entries, List<Attachment> more) {
        Set<Attachment.Kind> kinds = new HashSet<Attachment.Kind>();
        for (int i = 0; i < entries.size(); i++) {
            boolean isShown = i == entries.size() - 1 || isAnswer(entries.get(i + 1));
            for (Attachment attachment : entries.get(i).attachments) {
                if (isShown) {
                    kinds.add(attachment.kind);
                }
            }
        }
        for (Attachment attachment : more) {
            kinds.add(attachment.kind);
        }
        boolean seen = kinds.contains(Attachment.Kind.IMAGE);
        boolean heard = kinds.contains(Attachment.Kind.AUDIO);
        return seen ? (heard ? "image+audio" : "image") : heard ? "audio" : "text";
    }

    private static boolean isAnswer(Entry entry) {
        return !entry.isUser && entry.status != Entry.Status.FAILED && !entry.text.isEmpty();
    }
}
