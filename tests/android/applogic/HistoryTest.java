import java.io.File;
import java.io.IOException;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import org.palmtop.app.logic.Attachment;
import org.palmtop.app.logic.Entry;
import org.palmtop.app.logic.History;

public final class HistoryTest {
    private static String asked(Phone phone, String text) {
        phone.chat.send(text);
        phone.settle();
        for (History.Item item : phone.history.items()) {
            if (item.isOpen) {
                return item.id;
            }
        }
        throw new AssertionError("the open chat is not listed");
    }

    private static void age(Phone phone, String id, long millis) {
        Check.that(new File(phone.file, id).setLastModified(millis), id);
    }

    public void aNewChatLeavesTheOldOneInTheList() {
        Phone phone = Phone.ready();
        String first = asked(phone, "What\n is it?");
        age(phone, first, 1_000_000_000_000L);
        Check.that(phone.chat.begin(), "no new chat");
        Check.same(0, phone.chat.entries().size());
        Check.same(1, phone.history.items().size());
        String second = asked(phone, "And that?");
        List<History.Item> items = phone.history.items();
        Check.same(second, items.get(0).id);
        Check.same("What is it?", items.get(1).title());
        Check.same(2, items.get(1).entries.size());
        Check.same(1_000_000_000_000L, items.get(1).changedMillis);
        Check.that(items.get(0).isOpen && !items.get(1).isOpen, "which one is open");
    }

    public void aKeptChatGoesOn() {
        Phone phone = Phone.ready();
        String first = asked(phone, "One?");
        phone.chat.begin();
        asked(phone, "Two?");
        Check.that(phone.chat.resume(first), "not opened");
        Check.same("One?", phone.chat.entries().get(0).text);
        asked(phone, "More?");
        Check.same(3, phone.engine.asked.size()); // the model reads the whole of it
        Check.same("One?", phone.engine.asked.get(0).text);
        Check.same(4, new Phone(phone.file).chat.entries().size()); // and it is the one that the next start opens
        Check.same(2, phone.history.items().size());
    }

    public void anEmptyNewChatStaysOpenAndIsNotListed() {
        Phone phone = Phone.ready();
        asked(phone, "One?");
        phone.chat.begin();
        phone.chat.begin();
        Phone reborn = new Phone(phone.file);
        Check.same(0, reborn.chat.entries().size());
        Check.same(1, reborn.history.items().size());
    }

    public void aDeletedChatIsGoneWithItsFiles() throws IOException {
        Phone phone = Phone.ready();
        File media = Check.folder();
        File sound = new File(media, "sound-1");
        File other = new File(media, "sound-2");
        Check.write(sound, new byte[1]);
        Check.write(other, new byte[1]);
        phone.chat.attach(Attachment.audio(sound.getPath(), 2));
        String first = asked(phone, "");
        Check.same("", phone.history.items().get(0).title());
        Check.same(2.0, phone.history.items().get(0).attachment().seconds);
        phone.chat.begin();
        asked(phone, "Two?");
        Check.that(phone.chat.delete(first, media), "not deleted");
        Check.that(!sound.exists() && other.exists(), "the files");
        Check.same(1, phone.history.items().size());
        Check.same("Two?", phone.chat.entries().get(0).text);
        Check.that(!phone.chat.resume(first), "opened what is not there");
    }

    public void deletingTheOpenChatOpensAnEmptyOne() {
        Phone phone = Phone.ready();
        String id = asked(phone, "One?");
        Check.that(phone.chat.delete(id, Check.folder()), "not deleted");
        Check.same(0, phone.chat.entries().size());
        Check.same(0, phone.history.items().size());
        asked(phone, "Two?");
        Check.same(1, phone.history.items().size());
    }

    public void nothingIsOpenedOrDeletedInMidAnswer() {
        Phone phone = Phone.ready();
        String id = asked(phone, "One?");
        phone.chat.begin();
        phone.sendAndHold("Two?");
        Check.that(!phone.chat.resume(id), "opened");
        Check.that(!phone.chat.delete(id, Check.folder()), "deleted");
        phone.engine.gate.countDown();
        phone.settle();
        Check.same("forty-two", phone.chat.entries().get(1).text);
    }

    /** The answer to the first model's question ends in the chat that asked, although another one is open by then. */
    public void anAnswerEndsInItsOwnChatAndNeverInADeletedOne() {
        Phone phone = Phone.ready();
        phone.sendAndHold("One?");
        String id = phone.history.items().get(0).id;
        phone.chat.open(Check.bundle(), "other");
        Check.that(phone.chat.begin(), "no new chat");
        phone.settle();
        Check.same(0, phone.chat.entries().size());
        Check.same(Entry.Status.STOPPED, phone.history.items().get(0).entries.get(1).status);
        phone.chat.resume(id);
        phone.sendAndHold("Two?");
        phone.chat.open(Check.bundle(), "reference");
        Check.that(phone.chat.delete(id, Check.folder()), "not deleted");
        phone.settle();
        Check.same(0, phone.history.items().size());
        Check.that(!new File(phone.file, id).exists(), "it came back");
    }

    public void aDamagedChatIsListedAndNeverOverwritten() throws IOException {
        Phone phone = Phone.ready();
        String id = asked(phone, "One?");
        File file = new File(phone.file, id);
        byte[] half = Arrays.copyOf(Check.bytes(file), 40);
        Check.write(file, half);
        Phone reborn = new Phone(phone.file);
        Check.same(0, reborn.chat.entries().size());
        History.Item item = reborn.history.items().get(0);
        Check.that(item.isDamaged, "not damaged");
        Check.that(!reborn.chat.resume(id), "opened");
        Check.same(40, Check.bytes(file).length);
        File media = Check.folder();
        Check.write(new File(media, "sound-1"), new byte[1]);
        reborn.history.sweep(media);
        Check.same(1, media.list().length); // it may be the damaged chat's
        Check.that(reborn.chat.delete(id, media), "not deleted");
        reborn.history.sweep(media);
        Check.same(0, media.list().length);
    }

    public void aNameThatLeadsOutIsNoChat() throws IOException {
        Phone phone = Phone.ready();
        File outside = new File(phone.file.getParentFile(), "chat-1.json");
        Check.write(outside, "{\"schema\":1,\"entries\":[]}".getBytes("UTF-8"));
        Check.that(!phone.chat.resume("../chat-1.json"), "opened");
        phone.chat.delete("../chat-1.json", Check.folder());
        Check.that(outside.exists(), "deleted");
    }

    public void mediaOfAnyChatStays() throws IOException {
        Phone phone = Phone.ready();
        File media = Check.folder();
        File kept = new File(media, "picture-1");
        Check.write(kept, new byte[1]);
        Check.write(new File(media, "picture-2"), new byte[1]);
        phone.chat.attach(Attachment.image(kept.getPath(), 4, 3));
        asked(phone, "One?");
        phone.chat.begin();
        new Phone(phone.file).history.sweep(media);
        Check.same(Collections.singletonList("picture-1"), Arrays.asList(media.list()));
    }
}
