import java.io.File;
import java.io.IOException;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicInteger;
import org.palmtop.app.logic.Attachment;
import org.palmtop.app.logic.Chat;
import org.palmtop.app.logic.ChatState.Phase;
import org.palmtop.app.logic.Entry;
import org.palmtop.app.logic.Settings;
import org.palmtop.app.logic.Trouble;
import org.palmtop.core.PalmtopException;
import org.palmtop.core.engine.GenerationOptions;
import org.palmtop.core.engine.Reply;

public final class ChatTest {
    private static final Attachment SOUND = Attachment.audio("/a.wav", 3);
    private static final Attachment IMAGE = Attachment.image("/a.png", 40, 30);

    public void anAnswerIsStreamedAndKept() {
        Phone phone = Phone.ready();
        phone.sendAndHold("  What? ");
        Check.same(Phase.WRITING, phone.chat.state().phase);
        Check.that(phone.chat.state().canStop() && !phone.chat.state().canSend(), "the button sends");
        Check.same("for", phone.chat.entries().get(1).text);
        Check.same(Entry.Status.WRITING, phone.chat.entries().get(1).status);
        phone.engine.gate.countDown();
        phone.settle();
        Check.same(Phase.READY, phone.chat.state().phase);
        Check.same("What?", phone.chat.entries().get(0).text);
        Check.same("forty-two", phone.chat.entries().get(1).text);
        Check.same(Entry.Status.DONE, phone.chat.entries().get(1).status);
        Check.that(phone.chat.entries().get(1).detail.contains("12.5/s"), phone.chat.entries().get(1).detail);
        Check.same(2, new Phone(phone.file).chat.entries().size());
    }

    public void stopKeepsWhatWasWritten() {
        Phone phone = Phone.ready();
        phone.sendAndHold("What?");
        phone.chat.stop();
        phone.settle();
        Check.same("for", phone.chat.entries().get(1).text);
        Check.same(Entry.Status.STOPPED, phone.chat.entries().get(1).status);
        Check.same(Phase.READY, phone.chat.state().phase);
    }

    public void aKilledAppFindsTheQuestionAndTheInterruptedAnswer() {
        Phone phone = Phone.ready();
        phone.sendAndHold("What?");
        Phone reborn = new Phone(phone.file); // the first one never comes to its end
        Check.same(2, reborn.chat.entries().size());
        Check.same(Entry.Status.INTERRUPTED, reborn.chat.entries().get(1).status);
        reborn.chat.open(Check.bundle(), "reference");
        reborn.settle();
        Check.that(reborn.chat.retry(), "no second try");
        reborn.settle();
        Check.same(2, reborn.chat.entries().size());
        Check.same("forty-two", reborn.chat.entries().get(1).text);
        Check.same(1, reborn.engine.asked.size());
        phone.engine.gate.countDown();
    }

    public void anAnswerGoesOnWithoutAScreen() {
        Phone phone = Phone.ready();
        final AtomicInteger told = new AtomicInteger();
        Chat.Watcher screen = new Chat.Watcher() {
            @Override
            public void onChange() {
                told.incrementAndGet();
            }
        };
        phone.chat.watch(screen);
        phone.sendAndHold("What?");
        phone.chat.unwatch(screen);
        int before = told.get();
        Check.that(before > 0, before);
        phone.engine.gate.countDown();
        phone.settle();
        Check.same(before, told.get());
        Check.same("forty-two", phone.chat.entries().get(1).text);
    }

    public void nothingIsSentTwiceOrEmpty() {
        Phone phone = Phone.ready();
        Check.that(!phone.chat.send("   "), "sent nothing");
        phone.sendAndHold("What?");
        Check.that(!phone.chat.send("Again?"), "sent while answering");
        Check.that(!phone.chat.begin(), "a new chat while answering");
        phone.engine.gate.countDown();
        phone.settle();
        Check.same(2, phone.chat.entries().size());
    }

    public void aFailureSaysWhyAndIsNotShownToTheModel() {
        Phone phone = Phone.ready();
        phone.engine.failure = PalmtopException.input("the prompt has 9000 tokens, expected at most 8192");
        phone.chat.send("Too long");
        phone.settle();
        Entry failed = phone.chat.entries().get(1);
        Check.same(Entry.Status.FAILED, failed.status);
        Check.same(Trouble.CANNOT_ANSWER, failed.trouble);
        Check.that(failed.detail.contains("9000 tokens"), failed.detail);
        phone.engine.failure = null;
        phone.chat.send("Short");
        phone.settle();
        Check.same(1, phone.engine.asked.size());
        Check.same("Short", phone.engine.asked.get(0).text);
    }

    public void memoryThatIsFullIsCalledSo() {
        Phone phone = Phone.ready();
        phone.engine.failure = new RuntimeException(new OutOfMemoryError());
        phone.chat.send("What?");
        phone.settle();
        Check.same(Trouble.MEMORY, phone.chat.entries().get(1).trouble);
    }

    public void aDamagedModelIsNamedAndAnotherOneOpens() throws IOException {
        File copy = Check.copyOfBundle();
        byte[] bytes = Check.bytes(new File(copy, "decoder.onnx"));
        bytes[bytes.length / 2] ^= 1;
        Check.write(new File(copy, "decoder.onnx"), bytes);
        Phone phone = new Phone();
        phone.chat.open(copy, "damaged");
        phone.settle();
        Check.same(Phase.NO_MODEL, phone.chat.state().phase);
        Check.same(Trouble.MODEL_DAMAGED, phone.chat.state().trouble);
        Check.that(phone.chat.state().detail.contains("decoder.onnx"), phone.chat.state().detail);
        Check.that(!phone.chat.state().canSend(), "the button says that one can send");
        Check.that(!phone.chat.send("What?"), "sent without a model");
        phone.chat.open(Check.bundle(), "reference");
        phone.settle();
        Check.same(Phase.READY, phone.chat.state().phase);
        Check.same(null, phone.chat.state().trouble);
    }

    public void librariesThatDoNotLoadAreNoCrash() {
        Phone phone = new Phone();
        phone.engine.openError = new UnsatisfiedLinkError("libpalmtop.so");
        phone.chat.open(Check.bundle(), "reference");
        phone.settle();
        Check.same(Trouble.INTERNAL, phone.chat.state().trouble);
    }

    public void theModelIsGivenBackAndComesAgain() {
        Phone phone = Phone.ready();
        phone.chat.sleep();
        phone.settle();
        Check.same(Phase.ASLEEP, phone.chat.state().phase);
        Check.same(1, phone.engine.closed);
        phone.chat.wake();
        phone.settle();
        Check.same(Phase.READY, phone.chat.state().phase);
        Check.same(2, phone.engine.opened);
    }

    public void nothingIsGivenBackInMidAnswer() {
        Phone phone = Phone.ready();
        phone.sendAndHold("What?");
        phone.chat.sleep();
        phone.engine.gate.countDown();
        phone.settle();
        Check.same("forty-two", phone.chat.entries().get(1).text);
        Check.same(0, phone.engine.closed);
    }

    public void anotherModelStopsTheAnswer() {
        Phone phone = Phone.ready();
        phone.sendAndHold("What?");
        phone.chat.open(Check.bundle(), "other");
        phone.settle();
        Check.same(Phase.READY, phone.chat.state().phase);
        Check.same("other", phone.chat.state().model);
        Check.same(Entry.Status.STOPPED, phone.chat.entries().get(1).status);
    }

    public void whatIsAttachedGoesWithTheMessage() {
        Phone phone = Phone.ready();
        Check.that(phone.chat.attach(SOUND) && phone.chat.attach(IMAGE), "refused");
        phone.chat.detach(SOUND);
        phone.chat.send("");
        phone.settle();
        Check.same(1, phone.engine.asked.get(0).media.size());
        Check.same(Collections.emptyList(), phone.chat.state().attached);
        Check.same(40, new Phone(phone.file).chat.entries().get(0).attachments.get(0).width);
    }

    public void aModelOfFewModesTakesWhatItCan() throws IOException {
        File copy = Check.copyOfBundle();
        File manifest = new File(copy, "bundle.json");
        String text = new String(Check.bytes(manifest), "UTF-8");
        String route = ",\\s*\"image\\+audio\": \\{\\s*\"adapters\": \\{[^}]*\\},\\s*\"audio_projector\": \"vision\"\\s*\\}";
        String less = text.replaceFirst(route, "");
        Check.that(less.length() < text.length(), text);
        Check.write(manifest, less.getBytes("UTF-8"));
        Phone phone = new Phone();
        phone.chat.open(copy, "less");
        phone.settle();
        Check.same("", phone.chat.state().detail);
        Check.that(phone.chat.attach(IMAGE), "refused");
        Check.that(!phone.chat.state().takesAudio, "takes both");
        Check.that(!phone.chat.attach(SOUND), "takes both");
    }

    public void settingsReachTheEngine() {
        Phone phone = Phone.ready();
        phone.chat.setSettings(new Settings(" Be brief. ", false, 0.7, 40, 0.9, 1.1, 33, "speech"));
        phone.chat.send("What?");
        phone.settle();
        Check.same("system", phone.engine.asked.get(0).role);
        Check.same("Be brief.", phone.engine.asked.get(0).text);
        Check.same(Collections.singletonMap("speech", 1.0), phone.engine.adapters);
        Check.same(33, phone.engine.options.maxTokens());
        Check.same(0.7, phone.engine.options.temperature());
        phone.chat.setSettings(new Settings());
        phone.chat.send("What?");
        phone.settle();
        Check.same(null, phone.engine.adapters);
        Map<String, Double> own = new HashMap<String, Double>();
        own.put("max_tokens", 99.0);
        own.put("temperature", 0.6);
        GenerationOptions asked = phone.engine.options.or(own);
        Check.same(99, asked.maxTokens());
        Check.same(0.6, asked.temperature());
    }

    public void anAnswerThatWasCutSaysSo() {
        Phone phone = Phone.ready();
        Check.that(detail(phone, Reply.FinishReason.MAX_TOKENS).contains("cut: longest answer"), "length");
        Check.that(detail(phone, Reply.FinishReason.CONTEXT_FULL).contains("cut: context full"), "context");
        Check.that(!detail(phone, Reply.FinishReason.EOS).contains("cut"), "a whole one");
    }

    private static String detail(Phone phone, Reply.FinishReason reason) {
        phone.engine.reason = reason;
        phone.chat.send("What?");
        phone.settle();
        List<Entry> entries = phone.chat.entries();
        return entries.get(entries.size() - 1).detail;
    }

    public void adapterChoicesReachTheEngine() {
        Phone phone = Phone.ready();
        phone.chat.setSettings(new Settings().withAdapter(Settings.ADAPTER_NONE));
        phone.chat.send("What?");
        phone.settle();
        Check.same(Collections.emptyMap(), phone.engine.adapters);
    }

    private static File fileInPlaceOfAFolder() throws IOException {
        File file = new File(Check.folder(), "file");
        Check.write(file, new byte[1]);
        return new File(file, "chats");
    }

    public void aChatThatCannotBeKeptSaysSoAndGoesOn() throws IOException {
        Phone phone = new Phone(fileInPlaceOfAFolder());
        phone.chat.open(Check.bundle(), "reference");
        phone.settle();
        phone.chat.send("What?");
        phone.settle();
        Check.same("forty-two", phone.chat.entries().get(1).text);
        Check.that(phone.chat.isNotSaved(), "saved");
    }

    public void theBenchmarkBorrowsTheEngine() {
        Phone phone = Phone.ready();
        final Phone lent = phone;
        Check.that(phone.chat.lend(new Runnable() {
            @Override
            public void run() {
                Check.same(Phase.MEASURING, lent.chat.state().phase);
                Check.that(!lent.chat.send("What?"), "sent while measuring");
            }
        }), "not lent");
        phone.settle();
        Check.same(Phase.READY, phone.chat.state().phase);
        Check.same(0, phone.chat.entries().size());
    }
}
